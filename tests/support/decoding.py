"""Samples for an engine, a record of what vLLM's processor draws, and the check of it against transformers."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.generation.decoding.base import Completion, Decoding, Engine, Sample
from services.generation.decoding.debias import draw, draw_keys
from services.generation.decoding.tokenizer import read_vocabulary
from services.generation.pairs.prompts import lanes_for
from services.generation.pairs.tasks import load_all_tasks

STS = load_all_tasks(None)["sts"]
SENTENCES = (
    "The boy is swimming in the pond.",
    "Prices rose faster than anyone had expected.",
    "word1 word2 word3 word4",
)
WIDE = Decoding(top_k=0, top_p=1.0, max_tokens=24)

Draws = list[tuple[torch.Tensor, int]]
"""The debiased distribution and the token of each step of a sample."""


def lanes(label: str, sentence: str, exemplars: int = 1) -> tuple[str, ...]:
    """The plain prompts of a sample."""
    return tuple(prompt.text for prompt in lanes_for(STS, label, sentence, range(exemplars)))


def samples(decoding: Decoding = WIDE, count: int = 2, exemplars: int = 1) -> list[Sample]:
    """`count` samples for each sentence and label, with one, two and three lanes."""
    return [
        Sample(lanes(label, sentence, exemplars), seed=1000 * number + index, decoding=decoding)
        for number in range(count)
        for index, (sentence, label) in enumerate((s, label) for s in SENTENCES for label in STS.labels)
    ]


async def complete_all(engine: Engine, wanted: list[Sample]) -> list[Completion]:
    """Write all samples at one time."""
    return await asyncio.gather(*(engine.complete(sample) for sample in wanted))


class DrawRecorder:
    """What the processor drew: (sample name) -> its draws in order of steps."""

    def __init__(self) -> None:
        self._draws: dict[str, Draws] = {}

    def in_order(self) -> list[Draws]:
        """The draws of each sample, in the order in which the samples were asked for."""
        return [draws for _, draws in sorted(self._draws.items(), key=lambda item: int(item[0].rpartition("-")[2]))]

    def add(self, first_rows: list[Any], distributions: torch.Tensor, tokens: torch.Tensor) -> None:
        """One step of some samples, by their rows of lane 0."""
        for row, distribution, token in zip(first_rows, distributions, tokens, strict=True):
            draws = self._draws.setdefault(row.lane.sample, [])
            assert row.step == len(draws)
            draws.append((distribution.clone(), int(token)))


@contextlib.contextmanager
def recorded_draws() -> Iterator[DrawRecorder]:
    """Record every draw of the processor in this process. Only after an engine was started: it imports vllm."""
    from services.generation.decoding.vllm import processor

    recorder, force = DrawRecorder(), processor.SelfDebias._force
    last_draw: tuple[torch.Tensor, torch.Tensor]

    def recording_draw(probabilities: torch.Tensor, *arguments: torch.Tensor) -> torch.Tensor:
        nonlocal last_draw
        last_draw = probabilities, draw(probabilities, *arguments)
        return last_draw[1]

    def recording_force(self: Any, logits: torch.Tensor, whole: list[list[Any]]) -> None:
        force(self, logits, whole)
        recorder.add([rows[0] for rows in whole], *last_draw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "draw", recording_draw)
        patch.setattr(processor.SelfDebias, "_force", recording_force)
        yield recorder


def assert_exact(model_folder: str, wanted: list[Sample], recorder: DrawRecorder) -> int:
    """Every distribution equals transformers' to 1e-3, every token is the one drawn from it. Returns steps."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    vocabulary = read_vocabulary(tokenizer, model.config.vocab_size)
    steps = 0
    for sample, draws in zip(wanted, recorder.in_order(), strict=True):
        drawn = [token for _, token in draws]
        decoding, count = sample.decoding, len(drawn)
        suppressed = list(vocabulary.suppressed(decoding.line_breaks))
        by_lane = []
        for prompt in sample.prompts:
            ids = tokenizer(prompt).input_ids
            with torch.no_grad():
                logits = model(torch.tensor([ids + drawn])).logits[0, len(ids) - 1 : len(ids) - 1 + count]
            logits[:, suppressed] = float("-inf")
            by_lane.append(torch.softmax(logits.double(), dim=-1))
        reference = debiased_by_definition(by_lane[0], by_lane[1:], decoding).float()
        ours = torch.stack([distribution for distribution, _ in draws])
        assert (ours - reference).abs().max().item() < 1e-3
        tokens = draw(
            reference,
            draw_keys(torch.full((count,), sample.seed), torch.arange(count)),
            torch.full((count,), decoding.temperature),
            torch.full((count,), decoding.top_k),
            torch.full((count,), decoding.top_p),
        )
        assert tokens.tolist() == drawn
        steps += count
    return steps


def debiased_by_definition(own: torch.Tensor, counters: list[torch.Tensor], decoding: Decoding) -> torch.Tensor:
    """DINO's rule, once more and apart from the code under test. own, counters: probabilities [steps, vocabulary]."""
    weights = own.clone()
    for counter in counters:
        kept = torch.exp(-decoding.decay_constant * torch.relu(counter - own))
        weights = torch.minimum(weights, own * torch.clamp(kept, min=decoding.floor))
    return weights / weights.sum(dim=-1, keepdim=True)


def pass_over_processor(monkeypatch: pytest.MonkeyPatch, times: int) -> Callable[[], int]:
    """Have vLLM's next steps take the likeliest token themselves, so many times; how often they have."""
    from services.generation.decoding.vllm import processor

    passed_over, apply = 0, processor.SelfDebias.apply

    def now_and_then(self: Any, logits: torch.Tensor, *context: object) -> torch.Tensor:
        nonlocal passed_over
        if passed_over < times:
            passed_over += 1
            return logits
        return apply(self, logits, *context)

    monkeypatch.setattr(processor.SelfDebias, "apply", now_and_then)
    return lambda: passed_over
