"""Self-debiasing and the draw that follows it: pure arithmetic on tensors, the same for every engine.

The rule is DINO's (Schick & Schütze 2021, section 3; their code's order of steps): debias the whole vocabulary, then
temperature, top-k, top-p, then draw. The draw is ours: its randomness is a function of (seed, step, token) alone, so a
sample's tokens don't depend on what else is in the batch, on its row, or on how often it had to be repeated.
"""

import torch
from torch import Tensor

# SplitMix64's constants, as int64.
GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
GREEDY_BELOW = 1e-4
"""Temperatures below this take the likeliest token."""


def debias(logits: Tensor, decay_constant: Tensor, floor: Tensor) -> Tensor:
    """The self-debiased distribution.

    logits: [samples, lanes, vocabulary]; lane 0 is the label's own prompt, the others its counter-labels'.
    decay_constant, floor: [samples]; the paper's values are 100 and 0.01.
    Returns float32 probabilities [samples, vocabulary]:  p' ~ p * max(exp(-decay * max(q - p, 0)), floor),
    where p is lane 0's softmax and q the largest softmax among the other lanes, token by token.
    """
    probabilities = torch.softmax(logits.float(), dim=-1)
    own = probabilities[:, 0]
    if logits.shape[1] == 1:
        return own
    excess = (probabilities[:, 1:].amax(dim=1) - own).clamp_(min=0.0)
    factor = torch.maximum(torch.exp(-decay_constant[:, None] * excess), floor[:, None])
    weights = own * factor
    # Summed in float64: how threads share a long sum depends on the batch, and its float32 rounding would show that.
    return (weights / weights.sum(dim=-1, keepdim=True, dtype=torch.float64)).float()


def draw(probabilities: Tensor, keys: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """One token a sample after temperature, top-k and top-p, in that order.

    probabilities: [samples, vocabulary] on the model's device. keys: [samples] int64 from `draw_keys`, any device.
    temperature, top_k (0: off), top_p (1: off): [samples] on the host, so that looking at them costs no device sync.
    Returns token ids, [samples] int64.

    The draw is an exponential race: the token with the largest p / noise wins, with noise ~ Exp(1) a token. Two runs
    whose probabilities differ by rounding then nearly always draw the same token; an inverse CDF would not.
    """
    device = probabilities.device
    weights, tokens = _candidates(probabilities, top_k, sort=bool((top_p < 1).any()))
    weights = weights.double()
    temperatures = temperature.double().clamp_min(GREEDY_BELOW)[:, None].to(device)
    if bool((temperature != 1).any()):
        weights = (weights / weights.amax(dim=-1, keepdim=True)) ** (1 / temperatures)
    if bool((top_p < 1).any()):
        mass = weights.cumsum(dim=-1)
        # The smallest set of likeliest tokens whose mass reaches top_p.
        weights = torch.where(mass - weights < top_p.double()[:, None].to(device) * mass[:, -1:], weights, 0.0)
    race = weights / _noise(keys.to(device), tokens)
    race = torch.where(temperatures > GREEDY_BELOW, race, weights)
    return tokens.gather(1, race.argmax(dim=-1, keepdim=True)).squeeze(1)


def _candidates(probabilities: Tensor, top_k: Tensor, sort: bool) -> tuple[Tensor, Tensor]:
    """Probabilities that top-k leaves (the others 0) and their token ids, likeliest first if `sort` or top-k is on."""
    vocabulary = probabilities.shape[-1]
    limits = torch.where(top_k > 0, top_k, vocabulary).clamp_max(vocabulary)
    max_limit = int(limits.max())
    if max_limit == vocabulary and not sort and int(limits.min()) == vocabulary:
        return probabilities, torch.arange(vocabulary, device=probabilities.device).expand_as(probabilities)
    weights, tokens = torch.topk(probabilities, max_limit, dim=-1)
    ranks = torch.arange(max_limit, device=probabilities.device)
    return torch.where(ranks < limits[:, None].to(probabilities.device), weights, 0.0), tokens


def draw_keys(seeds: Tensor, steps: Tensor) -> Tensor:
    """The draw's key for each sample: [samples] int64 from 64-bit seeds and the number of tokens drawn so far."""
    return _mix(_mix(seeds) ^ _mix(steps + 0x51ED27))


def _noise(keys: Tensor, tokens: Tensor) -> Tensor:
    """Exp(1) noise for every (key, token): [samples, tokens] float64, the same bits on every device."""
    bits = _mix(keys[:, None] + tokens * GOLDEN_GAMMA)
    return -torch.log((_shift(bits, 12).double() + 0.5) * 2.0**-52)


def _mix(value: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014) on int64, which wraps around as uint64 would."""
    value = value + GOLDEN_GAMMA
    value = (value ^ _shift(value, 30)) * MIX_1
    value = (value ^ _shift(value, 27)) * MIX_2
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
