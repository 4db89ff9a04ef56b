"""The arithmetic of self-debiasing and of the draw."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from services.generation.decoding.debias import debias, draw, draw_keys

PAPER = {"decay_constant": torch.tensor([100.0]), "floor": torch.tensor([0.01])}


def logits_of(*distributions: list[float]) -> torch.Tensor:
    """[1, lanes, vocabulary] logits whose softmax is the given distributions."""
    return torch.tensor([distributions], dtype=torch.float64).log().float()


def test_five_tokens_by_hand() -> None:
    own = [0.40, 0.30, 0.15, 0.10, 0.05]
    counter = [0.30, 0.31, 0.17, 0.17, 0.05]
    # Token 0 is liked less by the counter prompt: kept whole. 1: 0.01 more: exp(-1). 2: 0.02 more: exp(-2).
    # 3: 0.07 more: exp(-7) is below the floor, 0.01 stays. 4: equal: kept whole.
    kept = [1.0, math.exp(-1), math.exp(-2), 0.01, 1.0]
    weights = [p * alpha for p, alpha in zip(own, kept, strict=True)]
    expected = torch.tensor([[weight / sum(weights) for weight in weights]])
    torch.testing.assert_close(debias(logits_of(own, counter), **PAPER), expected, atol=1e-6, rtol=0)


def test_the_strongest_counter_lane_counts() -> None:
    own, mild, strong = [0.5, 0.3, 0.2], [0.5, 0.32, 0.18], [0.3, 0.4, 0.3]
    both = debias(logits_of(own, mild, strong), **PAPER)
    torch.testing.assert_close(both, debias(logits_of(own, strong, mild), **PAPER))
    kept = [1.0, max(math.exp(-10), 0.01), max(math.exp(-10), 0.01)]
    weights = torch.tensor([p * alpha for p, alpha in zip(own, kept, strict=True)])
    torch.testing.assert_close(both[0], weights / weights.sum(), atol=1e-6, rtol=0)


lanes = st.integers(1, 4).flatmap(
    lambda count: st.lists(st.lists(st.floats(-8, 8), min_size=6, max_size=6), min_size=count, max_size=count)
)


@given(lanes)
def test_properties_of_the_debiased_distribution(raw: list[list[float]]) -> None:
    logits = torch.tensor([raw])
    result, plain = debias(logits, **PAPER)[0], torch.softmax(logits[0, 0], dim=-1)
    assert result.sum().item() == pytest.approx(1, abs=1e-5)
    if len(raw) == 1:
        assert torch.equal(result, plain)
        return
    reordered = torch.tensor([[raw[0], *reversed(raw[1:])]])
    torch.testing.assert_close(result, debias(reordered, **PAPER)[0])
    disliked = torch.softmax(logits[0, 1:], dim=-1).amax(dim=0) > plain
    ratios = result / plain
    if disliked.any() and (~disliked).any():
        assert ratios[disliked].max() <= ratios[~disliked].min() * (1 + 1e-5)


@given(st.lists(st.floats(-8, 8), min_size=6, max_size=6), st.integers(2, 4))
def test_equal_prompts_change_nothing(raw: list[float], count: int) -> None:
    logits = torch.tensor([[raw] * count])
    torch.testing.assert_close(debias(logits, **PAPER)[0], torch.softmax(logits[0, 0], dim=-1))


DRAWS = 20_000


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (1.0, 5, 1.0), (1.0, 5, 0.9), (1.0, 0, 0.9), (0.7, 0, 1.0), (1.3, 5, 0.8)],
)
def test_draws_follow_the_warped_distribution(temperature: float, top_k: int, top_p: float) -> None:
    """Against transformers' own warpers, in DINO's order: temperature, top-k, top-p."""
    torch.manual_seed(1)
    probabilities = torch.softmax(torch.randn(1, 30) * 2, dim=-1)
    scores = probabilities.log() / temperature
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = torch.softmax(scores, dim=-1)[0]

    keys = draw_keys(torch.full((DRAWS,), 7), torch.arange(DRAWS))
    tokens = draw(
        probabilities.expand(DRAWS, -1),
        keys,
        torch.full((DRAWS,), temperature),
        torch.full((DRAWS,), top_k),
        torch.full((DRAWS,), top_p),
    )
    frequencies = torch.bincount(tokens, minlength=30) / DRAWS
    possible = expected > 0
    assert frequencies[~possible].sum() == 0
    chi_square = (DRAWS * (frequencies - expected)[possible] ** 2 / expected[possible]).sum().item()
    degrees = int(possible.sum()) - 1
    # 99.99 % of fair draws stay below this (Wilson and Hilferty's approximation); the seed is fixed.
    assert chi_square < degrees * (1 - 2 / (9 * degrees) + 3.72 * math.sqrt(2 / (9 * degrees))) ** 3


def test_temperature_zero_takes_the_likeliest() -> None:
    probabilities = torch.softmax(torch.randn(20, 50), dim=-1)
    tokens = draw(
        probabilities,
        draw_keys(torch.arange(20), torch.zeros(20, dtype=torch.int64)),
        torch.zeros(20),
        torch.full((20,), 5),
        torch.full((20,), 0.9),
    )
    assert torch.equal(tokens, probabilities.argmax(dim=-1))


@settings(max_examples=30)
@given(st.permutations(range(6)), st.lists(st.integers(0, 6), min_size=6, max_size=6))
def test_a_draw_depends_on_nothing_else_in_the_batch(order: list[int], top_k: list[int]) -> None:
    torch.manual_seed(2)
    probabilities = torch.softmax(torch.randn(6, 40), dim=-1)
    keys = draw_keys(torch.arange(6) * 10**17, torch.arange(6))
    ones, limits, masses = torch.ones(6), torch.tensor(top_k), torch.tensor([1.0, 0.9, 1.0, 0.5, 0.9, 1.0])
    together = draw(probabilities, keys, ones, limits, masses)
    index = torch.tensor(order)
    assert torch.equal(draw(probabilities[index], keys[index], ones, limits[index], masses[index]), together[index])
    for row in range(6):
        one = slice(row, row + 1)
        assert draw(probabilities[one], keys[one], ones[one], limits[one], masses[one]) == together[row]
