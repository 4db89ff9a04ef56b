"""How batches are cut, and that the batcher answers everybody once, in order, with what they asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sentence_transformers import SentenceTransformer

from services.embedding.__main__ import load_version
from services.embedding.metrics import Metrics
from services.embedding.models.base import EncodeOptions, Encoder, Tokens, Vectors
from services.embedding.serving.batcher import Batcher
from services.embedding.serving.errors import Overloaded
from services.embedding.serving.queue import BatchQueue, QueuedInput, cost
from services.embedding.settings import EmbeddingSettings
from shared.model_store import ModelStore
from tests.support.embedding import Gate
from tests.support.versions import WORDS, publish, static_student, transformer_student

Result = TypeVar("Result")
BUDGET = 64
WAITING = st.lists(st.tuples(st.integers(0, 100), st.floats(0, 10)), min_size=1, max_size=60)


class Shape(Gate):
    """As much of an encoder as a queue reads."""

    def __init__(self, padded: bool) -> None:
        self.padded = padded


def queue_of(lengths_and_times: list[tuple[int, float]], padded: bool) -> tuple[BatchQueue, list[QueuedInput]]:
    """A queue, filled as the batcher does: oldest first, now one and now several."""
    inputs = [
        QueuedInput(str(number), since, Tokens(n, n, None), n)
        for number, (n, since) in enumerate(sorted(lengths_and_times, key=lambda pair: pair[1]))
    ]
    queue = BatchQueue(Shape(padded), EncodeOptions())
    queue.add(inputs[:1])
    queue.add(inputs[1 : len(inputs) // 2])
    queue.add(inputs[max(1, len(inputs) // 2) :])
    return queue, inputs


@given(waiting=WAITING, padded=st.booleans(), overdue=st.floats(0, 10))
def test_no_batch_exceeds_the_budget_unless_it_is_a_single_input(
    waiting: list[tuple[int, float]], padded: bool, overdue: float
) -> None:
    queue, _ = queue_of(waiting, padded)
    batch = queue.cut(BUDGET, overdue)
    assert batch
    counts = [entry.count for entry in batch]
    assert len(batch) == 1 or cost(len(batch), max(counts), sum(counts), padded) <= BUDGET


@given(waiting=WAITING, padded=st.booleans(), overdue=st.floats(0, 10))
def test_cutting_until_none_is_left_takes_each_once(
    waiting: list[tuple[int, float]], padded: bool, overdue: float
) -> None:
    queue, inputs = queue_of(waiting, padded)
    taken: list[QueuedInput] = []
    while batch := queue.cut(BUDGET, overdue):
        taken += batch
        assert queue.tokens == sum(entry.count for entry in inputs if not entry.dequeued)
    assert sorted(int(entry.text) for entry in taken) == list(range(len(waiting)))


@given(waiting=WAITING, padded=st.booleans(), overdue=st.floats(0, 10))
def test_an_overdue_input_goes_first_and_short_ones_otherwise(
    waiting: list[tuple[int, float]], padded: bool, overdue: float
) -> None:
    queue, inputs = queue_of(waiting, padded)
    batch = queue.cut(BUDGET, overdue)
    oldest = min(entry.queued_at for entry in inputs)
    if oldest < overdue:
        assert oldest in [entry.queued_at for entry in batch]
    else:
        assert max(entry.count for entry in batch) <= min(
            (entry.count for entry in inputs if entry not in batch), default=1000
        )


@given(waiting=WAITING, padded=st.booleans())
def test_a_batch_is_as_large_as_the_budget_lets_it_be(waiting: list[tuple[int, float]], padded: bool) -> None:
    queue, inputs = queue_of(waiting, padded)
    batch = queue.cut(BUDGET, overdue_before=0)
    rest = sorted(entry.count for entry in inputs if entry not in batch)
    if rest:
        total = sum(entry.count for entry in batch) + rest[0]
        assert cost(len(batch) + 1, max(rest[0], *(entry.count for entry in batch)), total, padded) > BUDGET


# ---- the batcher, with real encoders


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Encoder, SentenceTransformer]]:
    home = tmp_path_factory.mktemp("home")
    store, encoders = ModelStore(home / "models"), {}
    for number, student in enumerate((static_student(1), static_student(2), transformer_student(home / "parts", 3))):
        manifest = publish(store, student, number)
        encoders[f"{number}"] = (
            load_version(EmbeddingSettings(precision="float32"), store.path(manifest.id), manifest),
            student,
        )
    return encoders


def with_batcher(work: Callable[[Batcher, Metrics], Awaitable[Result]], **limits: int) -> Result:
    """Run `work` with a batcher that isn't running yet."""

    async def _run() -> Result:
        metrics = Metrics(CollectorRegistry())
        own = EmbeddingSettings(workers=2, max_batch_tokens=BUDGET, cache_mib=0)
        # Limits this small are below what the settings allow.
        return await work(Batcher(own.model_copy(update=limits), metrics), metrics)

    return asyncio.run(_run())


async def answered(batcher: Batcher, encoder: Encoder, texts: list[str]) -> Vectors:
    request = batcher.submit(encoder, texts, EncodeOptions())
    try:
        await request.done
        return request.vectors
    finally:
        batcher.release(request)


def value(metrics: Metrics, name: str) -> float:
    sample = metrics.registry.get_sample_value(f"pairwright_embedding_{name}")
    assert sample is not None
    return sample


TEXT = st.lists(st.sampled_from([*WORDS, "zzz", "😀"]), min_size=1, max_size=40).map(" ".join)
REQUESTS = st.lists(st.tuples(st.sampled_from("012"), st.lists(TEXT, min_size=1, max_size=12)), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None)
@given(requests=REQUESTS)
def test_everybody_gets_their_own_vectors_in_order(
    encoders: dict[str, tuple[Encoder, SentenceTransformer]], requests: list[tuple[str, list[str]]]
) -> None:
    async def _ask(batcher: Batcher, metrics: Metrics) -> list[Vectors]:
        running = asyncio.create_task(batcher.run())
        answers = await asyncio.gather(*(answered(batcher, encoders[name][0], texts) for name, texts in requests))
        assert value(metrics, "queued_inputs") == 0
        running.cancel()
        return answers

    for (name, texts), vectors in zip(requests, with_batcher(_ask), strict=True):
        np.testing.assert_allclose(vectors, encoders[name][1].encode(texts), atol=1e-5)


def test_identical_texts_are_computed_once(encoders: dict[str, tuple[Encoder, SentenceTransformer]]) -> None:
    async def _ask(batcher: Batcher, metrics: Metrics) -> float:
        encoder = encoders["0"][0]
        asking = [asyncio.create_task(answered(batcher, encoder, ["a dog", "a cat", "a dog"])) for _ in range(5)]
        await asyncio.sleep(0)
        running = asyncio.create_task(batcher.run())
        for vectors in await asyncio.gather(*asking):
            assert np.array_equal(vectors[0], vectors[2])
        running.cancel()
        return value(metrics, "batch_inputs_sum")

    assert with_batcher(_ask) == 2


def test_what_nobody_waits_for_is_not_computed(encoders: dict[str, tuple[Encoder, SentenceTransformer]]) -> None:
    async def _ask(batcher: Batcher, metrics: Metrics) -> tuple[float, float]:
        encoder = encoders["0"][0]
        batcher.release(batcher.submit(encoder, ["a dog", "a cat", "a man"], EncodeOptions()))
        asking = asyncio.create_task(answered(batcher, encoder, ["a man", "a child"]))
        await asyncio.sleep(0)
        running = asyncio.create_task(batcher.run())
        await asking
        # The dropped ones leave no trace: asked for again, they are computed.
        assert len(await answered(batcher, encoder, ["a dog"])) == 1
        running.cancel()
        return value(metrics, "batch_inputs_sum"), value(metrics, "abandoned_total")

    assert with_batcher(_ask) == (3, 1)


@pytest.mark.parametrize("limits", [{"max_queue_inputs": 4}, {"max_queue_chars": 20}, {"max_queue_tokens": 10}])
def test_past_the_bound_it_refuses_until_something_is_answered(
    encoders: dict[str, tuple[Encoder, SentenceTransformer]], limits: dict[str, int]
) -> None:
    async def _ask(batcher: Batcher, metrics: Metrics) -> None:
        encoder = encoders["0"][0]
        first = batcher.submit(encoder, ["a dog", "a cat", "a man"], EncodeOptions())
        with pytest.raises(Overloaded):
            batcher.submit(encoder, ["a dog", "a cat"], EncodeOptions())
        assert value(metrics, "refused_total") == 1
        running = asyncio.create_task(batcher.run())
        await first.done
        batcher.release(first)
        assert len(await answered(batcher, encoder, ["a dog", "a cat"])) == 2
        running.cancel()

    with_batcher(_ask, **limits)


def test_an_input_longer_than_the_budget_is_a_batch_of_its_own(
    encoders: dict[str, tuple[Encoder, SentenceTransformer]],
) -> None:
    async def _ask(batcher: Batcher, metrics: Metrics) -> float:
        running = asyncio.create_task(batcher.run())
        await answered(batcher, encoders["0"][0], ["dog " * 1000, "cat " * 1000])
        running.cancel()
        return value(metrics, "batch_inputs_count")

    assert with_batcher(_ask) == 2


def test_a_version_without_its_files_cannot_be_loaded(tmp_path: Path) -> None:
    manifest = publish(ModelStore(tmp_path), static_student(1), 0)
    with pytest.raises((OSError, ValueError)):
        partial(load_version, EmbeddingSettings())(tmp_path / "versions", manifest)
