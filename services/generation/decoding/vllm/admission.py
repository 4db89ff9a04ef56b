"""Which sample enters the engine next: clients take turns, small samples fill gaps, nobody starves."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, Protocol, TypeVar

LOOKAHEAD = 8
"""How far down a client's line a sample is looked for that fits where the first doesn't."""
MAX_OVERTAKEN = 16
"""A sample that was overtaken this often is let in before anybody else."""


class Waiting(Protocol):
    """What the line needs to know of a sample."""

    client: str
    overtaken: int

    @property
    def lanes(self) -> int:
        """How many lanes it takes."""


Group = TypeVar("Group", bound=Waiting)


class Line(Generic[Group]):
    """Waiting samples. Clients share the lanes equally while they wait; within a client, first come, first served."""

    def __init__(self) -> None:
        self._again: deque[Group] = deque()
        self._lines: dict[str, deque[Group]] = {}
        self._served: dict[str, int] = {}
        """Lanes let in by client, while it has samples here."""

    def __bool__(self) -> bool:
        return bool(self._again or self._lines)

    def add(self, group: Group) -> None:
        """Take a sample at the end of its client's line."""
        if group.client not in self._lines:
            self._lines[group.client] = deque()
            # A newcomer starts level with the others: neither behind for what it had before nor owed what it missed.
            self._served[group.client] = min(self._served.values(), default=0)
        self._lines[group.client].append(group)

    def add_again(self, group: Group) -> None:
        """Take a sample that was in already and must be replayed: it goes first."""
        self._again.append(group)

    def remove(self, group: Group) -> bool:
        """Forget a sample; False if it isn't here."""
        for line in (self._again, self._lines.get(group.client, ())):
            if group in line:
                self._take(group)
                return True
        return False

    def next(self, fits: Callable[[Group], bool]) -> Group | None:
        """Take the next sample that fits; None when none may enter now."""
        overtaken: list[Group] = []
        for first in self._firsts():
            for group in self._from(first):
                if fits(group):
                    self._take(group)
                    for one in overtaken:
                        one.overtaken += 1
                    return group
            overtaken.append(first)
            if first.overtaken >= MAX_OVERTAKEN:
                return None
        return None

    def _firsts(self) -> Iterator[Group]:
        """The first of each line, replays before all, then the client that had the fewest lanes."""
        if self._again:
            yield self._again[0]
        for client in sorted(self._lines, key=lambda client: self._served[client]):
            yield self._lines[client][0]

    def _from(self, first: Group) -> Iterable[Group]:
        """A line's samples that may enter now: only the first of them, once it has been overtaken too often."""
        line = self._again if self._again and first is self._again[0] else self._lines[first.client]
        return [first] if first.overtaken >= MAX_OVERTAKEN else list(islice(line, LOOKAHEAD))

    def _take(self, group: Group) -> None:
        if group in self._again:
            self._again.remove(group)
            return
        line = self._lines[group.client]
        line.remove(group)
        self._served[group.client] += group.lanes
        if not line:
            del self._lines[group.client], self._served[group.client]
