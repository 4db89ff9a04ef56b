"""The worker: collects until it is told to stop, whatever happens around it, and lets rounds start in between.

Light: nothing heavy is imported here.
"""

import asyncio
import contextlib
import logging
import random

from services.trainer.collector import Collector
from services.trainer.dataset import Dataset
from services.trainer.progress import first_line
from services.trainer.rounds import TRANSIENT, Rounds
from shared.status import StatusBoard

log = logging.getLogger(__name__)

BLOCK_MS = 1000
NOTE_S = 2.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 5.0


class Worker:
    """One dataset's trainer. `stopping` ends it; what is under way then is done again at the next start."""

    def __init__(
        self, collector: Collector, rounds: Rounds, dataset: Dataset, board: StatusBoard, stopping: asyncio.Event
    ) -> None:
        self._collector, self._rounds, self._dataset, self._board = collector, rounds, dataset, board
        self._stopping = stopping
        self._outage: str | None = None
        self._pause = FIRST_PAUSE_S

    async def run(self) -> None:
        """Work until `stopping` is set."""
        log.info("collecting; the dataset has %d pairs, %d new", self._dataset.count(), self._dataset.count_new())
        self._rounds.plan_base()
        notes = asyncio.create_task(self._post_notes())
        try:
            while not self._stopping.is_set():
                await self._collect()
                if not self._stopping.is_set():
                    await self._rounds.consider(redis_answers=self._outage is None)
        finally:
            notes.cancel()
            await self._rounds.stop()

    async def _collect(self) -> None:
        """Collect one batch; while that fails, wait a little longer each time."""
        try:
            # Never cancelled: a read that is cancelled as its reply comes would strand the reply's pairs.
            await self._collector.collect(BLOCK_MS)
        except TRANSIENT as error:
            if self._outage is None:
                log.warning("can't collect: %s; trying until it works, nothing is lost", first_line(error))
            self._outage = f"can't collect: {first_line(error)}"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause * random.uniform(0.5, 1))
            self._pause = min(2 * self._pause, LAST_PAUSE_S)
            return
        if self._outage is not None:
            log.info("collecting again")
        self._outage, self._pause = None, FIRST_PAUSE_S

    async def _post_notes(self) -> None:
        while True:
            try:
                counts = {"pairs": self._dataset.count(), "new_pairs": self._dataset.count_new()}
                note = self._rounds.note() | counts
                await self._board.post("trainer", note | {"fault": self._outage or note["fault"]})
            except TRANSIENT as error:
                log.debug("no note: %s", error)
            await asyncio.sleep(NOTE_S)
