"""Writes a job's work items, several at one time, and hands over their results in order. Knows no Redis."""

import asyncio
from collections import deque
from typing import Protocol

from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.work_item import WorkItem, WorkItemResult

WINDOW = 4096  # items that may be written ahead of the last recorded one


class Items(Protocol):
    """Work items, of which results are recorded in order: a `JobProgress`, or a part of one."""

    @property
    def recorded(self) -> int:
        """Items whose results are in."""

    @property
    def total(self) -> int:
        """Items that exist so far."""

    def work_item(self, index: int) -> WorkItem:
        """Item `index`, which must be below `total`."""


class OrderedWriter:
    """Keeps an engine full with one job's items. The caller records the results in `progress`."""

    def __init__(self, generator: PairGenerator, job: Job, progress: Items) -> None:
        self._generator, self._job, self._progress = generator, job, progress
        self._in_flight = generator.items_in_flight(job)
        self._next = progress.recorded
        self._writing = 0
        self._tasks: deque[asyncio.Task[WorkItemResult]] = deque()

    async def take(self, most: int, wait_s: float | None = None) -> list[WorkItemResult]:
        """The next results in order, up to `most`; [] if none comes within `wait_s`. Raises the engine's errors."""
        self._start_items()
        await asyncio.wait([self._tasks[0]], timeout=wait_s)
        results: list[WorkItemResult] = []
        while self._tasks and self._tasks[0].done() and len(results) < most:
            results.append(self._tasks.popleft().result())
        return results

    async def stop(self) -> None:
        """Give up what is being written; the engine is free when this returns."""
        self._in_flight = 0
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start_items(self) -> None:
        last = min(self._progress.total, self._progress.recorded + WINDOW)
        while self._writing < self._in_flight and self._next < last:
            task = asyncio.create_task(self._generator.write(self._job, self._progress.work_item(self._next)))
            task.add_done_callback(self._item_ended)
            self._tasks.append(task)
            self._next += 1
            self._writing += 1

    def _item_ended(self, _: asyncio.Task[WorkItemResult]) -> None:
        self._writing -= 1
        self._start_items()
