"""The worker: collects until it is told to stop, whatever happens around it, and lets rounds start in between.

Light: nothing heavy is imported here.
"""

import asyncio
import contextlib
import logging
import random
from typing import Any

from services.trainer.dataset.store import Dataset
from services.trainer.metrics import Metrics
from services.trainer.publishing.retention import repair
from services.trainer.worker.collector import Collector
from services.trainer.worker.scheduler import TRANSIENT, RoundScheduler
from shared.backoff import pause
from shared.errors import first_line
from shared.heartbeat import Heartbeats
from shared.lease import Lease
from shared.model_store import ModelStore

log = logging.getLogger(__name__)

BLOCK_MS = 1000
NOTE_S = 2.0
HEAL_S = 600.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 5.0


class Worker:
    """One dataset's trainer, while it holds the lease. `stopping` ends it; what is under way then goes on next time."""

    def __init__(
        self,
        collector: Collector,
        rounds: RoundScheduler,
        dataset: Dataset,
        store: ModelStore,
        board: Heartbeats,
        lease: Lease,
        stopping: asyncio.Event,
        metrics: Metrics,
    ) -> None:
        self._collector, self._rounds, self._dataset = collector, rounds, dataset
        self._store, self._board = store, board
        self._lease, self._stopping, self._metrics = lease, stopping, metrics
        self._outage: str | None = None
        self._pause = FIRST_PAUSE_S

    async def run(self) -> None:
        """Work until `stopping` is set or the lease is lost."""
        log.info("collecting; the dataset has %d pairs, %d new", self._dataset.count(), self._dataset.count_new())
        self._metrics.holds_lease(True)
        with contextlib.suppress(OSError):
            for newest in self._store.versions()[-1:]:
                self._metrics.has_published(newest.created.timestamp(), newest.scores)
        await self._heal()
        self._rounds.plan_base()
        beside = [asyncio.create_task(task) for task in (self._lease.keep(), self._post_notes(), self._look_after())]
        try:
            while self._goes_on():
                await self._collect()
                if self._goes_on():
                    await self._rounds.consider(redis_answers=self._outage is None)
        finally:
            for task in beside:
                task.cancel()
            self._metrics.holds_lease(False)
            await self._rounds.stop()

    def _goes_on(self) -> bool:
        return self._lease.held and not self._stopping.is_set()

    async def _look_after(self) -> None:
        """Check the current version from time to time."""
        while True:
            await asyncio.sleep(HEAL_S)
            await self._heal()
            self._rounds.plan_base()

    async def _heal(self) -> None:
        try:
            healed = await asyncio.to_thread(repair, self._store)
        except OSError as error:
            log.warning("can't look after the versions: %s", first_line(error))
            return
        if healed is not None:
            log.error("the current version was damaged: %s", healed)

    async def _collect(self) -> None:
        """Collect one batch; while that fails, wait a little longer each time."""
        try:
            # Never cancelled: a read that is cancelled as its reply comes would strand the reply's pairs.
            self._metrics.collected.inc(await self._collector.collect(BLOCK_MS))
        except TRANSIENT as error:
            if self._outage is None:
                log.warning("can't collect: %s; trying until it works, nothing is lost", first_line(error))
            self._outage = f"can't collect: {first_line(error)}"
            self._metrics.stands(self._outage, self._rounds.fault)
            await pause(self._stopping, self._pause * random.uniform(0.5, 1))
            self._pause = min(2 * self._pause, LAST_PAUSE_S)
            return
        if self._outage is not None:
            log.info("collecting again")
        self._outage, self._pause = None, FIRST_PAUSE_S

    async def _post_notes(self) -> None:
        while True:
            try:
                self._metrics.stands(self._outage, self._rounds.fault)
                counts: dict[str, Any] = {"pairs": self._dataset.count(), "new_pairs": self._dataset.count_new()}
                self._metrics.pairs.set(counts["pairs"])
                self._metrics.new_pairs.set(counts["new_pairs"])
                counts["dead_letters"] = await self._collector.dead()
                self._metrics.dead_letters.set(counts["dead_letters"])
                note = self._rounds.note() | counts
                await self._board.post("trainer", note | {"fault": self._outage or note["fault"]})
            except TRANSIENT as error:
                log.debug("no note: %s", error)
            await asyncio.sleep(NOTE_S)
