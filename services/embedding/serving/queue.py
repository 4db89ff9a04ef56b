"""Which of the waiting inputs are computed together. Pure: no clock, no threads."""

from bisect import bisect_left, insort_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from services.embedding.models.base import EncodeOptions, Encoder, Tokens, Vectors

by_count = attrgetter("count")


@dataclass(slots=True, eq=False)
class QueuedInput:
    """One distinct text that waits for its vector."""

    text: str
    since: float
    """When it was asked for, in seconds of a monotonic clock."""
    tokens: Tokens | None = None
    count: int = 0
    """Tokens that it costs: estimated until it is tokenised."""
    wanted: int = 0
    """Requests that still want it; at 0 it isn't computed."""
    requests: list[Any] = field(default_factory=list)
    """Whom to tell."""
    taken: bool = False
    """It left the lane, in a batch or dropped."""
    vector: Vectors | None = None
    error: BaseException | None = None


def cost(count: int, longest: int, total: int, padded: bool) -> int:
    """Tokens that a batch of `count` inputs computes."""
    return count * longest if padded else total


class BatchQueue:
    """What waits for one version and is read in one way: only that may share a batch."""

    def __init__(self, encoder: Encoder, options: EncodeOptions) -> None:
        self.encoder, self.options = encoder, options
        self.open: dict[str, QueuedInput] = {}
        """Every text that has no vector yet."""
        self.arrived: deque[QueuedInput] = deque()
        """Not tokenised yet, oldest first."""
        self.tokens = 0
        """Tokens of what is ready."""
        self._ready: list[QueuedInput] = []  # by length
        self._order: deque[QueuedInput] = deque()  # by age; those that were taken are skipped

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def oldest(self) -> QueuedInput | None:
        """What is ready and waits longest."""
        while self._order and self._order[0].taken:
            self._order.popleft()
        return self._order[0] if self._order else None

    def add(self, inputs: Sequence[QueuedInput]) -> None:
        """Take in tokenised inputs, oldest first."""
        self._order.extend(inputs)
        self.tokens += sum(one.count for one in inputs)
        if len(inputs) == 1:
            insort_right(self._ready, inputs[0], key=by_count)
            return
        self._ready += inputs
        self._ready.sort(key=by_count)  # two runs that are sorted already, or nearly

    def cut(self, budget: int, overdue_before: float) -> list[QueuedInput]:
        """The next batch: inputs of neighbouring length, at most `budget` tokens together; [] when nothing is ready.

        Short inputs go first, because that finishes most requests soonest. One that waits since before
        `overdue_before` goes before all, with the longest inputs that add no padding to it. A single input may exceed
        the budget.
        """
        oldest = self.oldest
        if oldest is None:
            return []
        if oldest.since >= overdue_before:
            size = self._fit(self._ready, budget)
            return self._take(0, size)
        place = self._ready.index(oldest, bisect_left(self._ready, oldest.count, key=by_count))
        # Last among those of its length, so that they come with it.
        self._ready.pop(place)
        insort_right(self._ready, oldest, key=by_count)
        end = bisect_left(self._ready, oldest.count + 1, key=by_count)
        size = self._fit(self._ready[:end][::-1], budget)
        return self._take(end - size, end)

    def _fit(self, candidates: Sequence[QueuedInput], budget: int) -> int:
        """How many of the candidates, from the first on, fit together; at least one."""
        longest = total = size = 0
        for one in candidates:
            longest, total = max(longest, one.count), total + one.count
            if size and cost(size + 1, longest, total, self.encoder.padded) > budget:
                break
            size += 1
        return size

    def _take(self, start: int, end: int) -> list[QueuedInput]:
        taken = self._ready[start:end]
        del self._ready[start:end]
        for one in taken:
            one.taken = True
            self.tokens -= one.count
        return taken
