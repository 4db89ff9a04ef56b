"""What waits, and which of the waiting inputs are computed together. Pure: no clock, no threads."""

import asyncio
from bisect import bisect_left, insort_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from services.embedding.models.base import LONG_CHARS, EncodeOptions, Encoder, Tokens, Vectors

TOKENISE_INPUTS, TOKENISE_CHARS = 512, 128 * 1024
"""Tokenised together at most, or a single longer text."""

by_count = attrgetter("count")


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request's inputs, all of one version, and the future that is set when the last of them has its vector."""

    chars: int
    done: asyncio.Future[None]
    queued_at: float  # in seconds of a monotonic clock, as all times here
    inputs: "list[QueuedInput]" = field(default_factory=list)
    pending: int = 0  # inputs without a vector yet
    tokenise_s: float = 0.0  # time in the tokeniser, with what was tokenised at the same time
    started_at: float | None = None  # of its first batch; None when others' batches or the cache held all of it
    finished_at: float | None = None

    @property
    def queue_s(self) -> float:
        """Waiting for its first batch, without the time in the tokeniser."""
        return max(0.0, self.started_at - self.queued_at - self.tokenise_s) if self.started_at else 0.0

    @property
    def inference_s(self) -> float:
        """From its first batch to the end of its last one."""
        return self.finished_at - self.started_at if self.started_at and self.finished_at else 0.0

    @property
    def vectors(self) -> Vectors:
        """float32 [len(inputs), dimensions], in the order asked for. Only once `done`."""
        return np.stack([entry.vector for entry in self.inputs if entry.vector is not None])

    @property
    def tokens(self) -> list[Tokens]:
        """Of each input. Only once `done`."""
        return [entry.tokens for entry in self.inputs if entry.tokens is not None]


@dataclass(slots=True, eq=False)
class QueuedInput:
    """One distinct text that waits for its vector."""

    text: str
    queued_at: float
    tokens: Tokens | None = None
    count: int = 0  # tokens that it costs: estimated until it is tokenised
    references: int = 0  # requests that still need it; at 0 it isn't computed
    requests: list[QueuedRequest] = field(default_factory=list)  # those that wait for its vector
    dequeued: bool = False  # it left the queue, in a batch or dropped
    vector: Vectors | None = None


def cost(count: int, longest: int, total: int, padded: bool) -> int:
    """Tokens that a batch of `count` inputs computes."""
    return count * longest if padded else total


class BatchQueue:
    """What waits for one version and is read in one way: only that may share a batch."""

    def __init__(self, encoder: Encoder, options: EncodeOptions) -> None:
        self.encoder, self.options = encoder, options
        self.pending: dict[str, QueuedInput] = {}  # every text that has no vector yet
        # Not tokenised yet, oldest first; long texts are tokenised apart.
        self.arrivals: tuple[deque[QueuedInput], deque[QueuedInput]] = (deque(), deque())
        self.tokens = 0  # of what is ready
        self._by_count: list[QueuedInput] = []
        self._by_age: deque[QueuedInput] = deque()  # those that left the queue are skipped

    @property
    def ready_inputs(self) -> int:
        """How many inputs are tokenised and in no batch yet."""
        return len(self._by_count)

    @property
    def oldest(self) -> QueuedInput | None:
        """What is ready and waits longest."""
        while self._by_age and self._by_age[0].dequeued:
            self._by_age.popleft()
        return self._by_age[0] if self._by_age else None

    def arrive(self, entry: QueuedInput) -> None:
        """Take in an input that is to be tokenised."""
        self.pending[entry.text] = entry
        self.arrivals[len(entry.text) > LONG_CHARS].append(entry)

    def take_arrivals(self, is_long: bool) -> list[QueuedInput]:
        """What is tokenised next, together: many inputs, but few characters, so that batches wait for nothing long."""
        arrivals, inputs, chars = self.arrivals[is_long], list[QueuedInput](), 0
        while arrivals and len(inputs) < TOKENISE_INPUTS and chars < TOKENISE_CHARS:
            chars += len(arrivals[0].text)
            inputs.append(arrivals.popleft())
        return inputs

    def add(self, inputs: Sequence[QueuedInput]) -> None:
        """Take in tokenised inputs, oldest first."""
        self._by_age.extend(inputs)
        self.tokens += sum(entry.count for entry in inputs)
        if len(inputs) == 1:
            insort_right(self._by_count, inputs[0], key=by_count)
            return
        self._by_count += inputs
        self._by_count.sort(key=by_count)  # two runs that are sorted already, or nearly

    def cut(self, budget: int, overdue_before: float) -> list[QueuedInput]:
        """The next batch: inputs of neighbouring length, at most `budget` tokens together; [] when nothing is ready.

        Short inputs go first: that finishes most requests soonest. One that waits since before `overdue_before` goes
        before all, with the longest inputs that add no padding to it. A single input may exceed the budget.
        """
        oldest = self.oldest
        if oldest is None:
            return []
        if oldest.queued_at >= overdue_before:
            return self._remove(0, self._fit(self._by_count, budget))
        place = self._by_count.index(oldest, bisect_left(self._by_count, oldest.count, key=by_count))
        # Last among those of its length, so that they come with it.
        self._by_count.pop(place)
        insort_right(self._by_count, oldest, key=by_count)
        end = bisect_left(self._by_count, oldest.count + 1, key=by_count)
        return self._remove(end - self._fit(self._by_count[:end][::-1], budget), end)

    def _fit(self, candidates: Sequence[QueuedInput], budget: int) -> int:
        """How many of the candidates, from the first on, fit together; at least one."""
        longest = total = size = 0
        for entry in candidates:
            longest, total = max(longest, entry.count), total + entry.count
            if size and cost(size + 1, longest, total, self.encoder.padded) > budget:
                break
            size += 1
        return size

    def _remove(self, start: int, end: int) -> list[QueuedInput]:
        batch = self._by_count[start:end]
        del self._by_count[start:end]
        for entry in batch:
            entry.dequeued = True
            self.tokens -= entry.count
        return batch


def cut_by_length(encoder: Encoder, tokens: Sequence[Tokens]) -> list[list[int]]:
    """Places of texts of neighbouring length, as many as suit the encoder together: all batches of what is at hand."""
    batches, total = list[list[int]](), 0
    for index in sorted(range(len(tokens)), key=lambda index: tokens[index].count):
        count = tokens[index].count
        # In this order, the newest is the longest.
        fits = batches and cost(len(batches[-1]) + 1, count, total + count, encoder.padded) <= encoder.batch_tokens
        if not fits:
            batches.append([])
            total = 0
        batches[-1].append(index)
        total += count
    return batches
