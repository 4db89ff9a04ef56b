"""Which of the waiting inputs are computed together. Pure: no clock, no threads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.embedding.encoder import Tokens, Vectors


@dataclass(slots=True, eq=False)
class Input:
    """One distinct text that waits for its vector."""

    text: str
    since: float
    """When it was asked for, in seconds of a monotonic clock."""
    tokens: Tokens | None = None
    wanted: int = 0
    """Requests that still want it; at 0 it isn't computed."""
    requests: list[Any] = field(default_factory=list)
    """Whom to tell."""
    vector: Vectors | None = None
    error: BaseException | None = None

    @property
    def count(self) -> int:
        """Its tokens; 0 before it is tokenised."""
        return self.tokens.count if self.tokens else 0


def cost(count: int, longest: int, total: int, padded: bool) -> int:
    """Tokens that a batch of `count` inputs computes."""
    return count * longest if padded else total


def cut(waiting: Sequence[Input], budget: int, padded: bool, overdue_before: float) -> list[Input]:
    """The next batch out of `waiting` (not empty): inputs of neighbouring length, at most `budget` tokens together.

    Short inputs go first, because that finishes most requests soonest. One that waits since before `overdue_before`
    goes before all, with the longest inputs that add no padding to it. A single input may exceed the budget.
    """
    ordered = sorted(waiting, key=lambda one: one.count)
    oldest = min(waiting, key=lambda one: one.since)
    if oldest.since < overdue_before:
        return _fill(
            [oldest, *(one for one in reversed(ordered) if one.count <= oldest.count and one is not oldest)],
            budget,
            padded,
        )
    return _fill(ordered, budget, padded)


def _fill(candidates: Sequence[Input], budget: int, padded: bool) -> list[Input]:
    """The first candidate and as many after it as fit."""
    longest = total = size = 0
    for one in candidates:
        longest, total = max(longest, one.count), total + one.count
        if size and cost(size + 1, longest, total, padded) > budget:
            break
        size += 1
    return list(candidates[:size])
