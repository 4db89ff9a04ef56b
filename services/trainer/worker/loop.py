"""The worker: collects until it is stopped, whatever happens around it, and lets rounds start in between."""

import asyncio
import contextlib
import logging
import sqlite3

from services.trainer.publishing.retention import repair
from services.trainer.worker.parts import BLOCK_MS, Parts
from services.trainer.worker.scheduler import TRANSIENT, RoundScheduler
from shared.backoff import Backoff, pause
from shared.errors import Fatal, first_line

log = logging.getLogger(__name__)

HEARTBEAT_S, REPAIR_S = 2.0, 600.0


class Worker:
    """One dataset's trainer, while it holds the lease. `stopping` ends it; what is under way then goes on next time."""

    def __init__(self, parts: Parts, stopping: asyncio.Event) -> None:
        self._collector = parts.collector()
        self._rounds, self._stream = RoundScheduler(parts, self._collector), parts.writer
        self._dataset, self._store, self._heartbeats = parts.dataset, parts.store, parts.heartbeats
        self._lease, self._stopping, self._metrics = parts.lease, stopping, parts.metrics
        self._outage: str | None = None
        self._backoff = Backoff(first_s=0.1)

    async def run(self) -> None:
        """Work until `stopping` is set or the lease is lost. Raises `Fatal` when the disk refuses at the start."""
        pairs, new = await self._dataset.run(lambda dataset: (dataset.count(), dataset.count_new()))
        log.info("collecting; the dataset has %d pairs, %d new", pairs, new)
        self._metrics.set_lease_held(True)
        with contextlib.suppress(OSError):
            for newest in self._store.versions()[-1:]:
                self._metrics.set_published(newest.created.timestamp(), newest.scores)
        await self._repair()
        try:
            await self._rounds.plan_base()
        except (OSError, sqlite3.Error) as error:
            raise Fatal(f"PAIRWRIGHT_HOME: can't write the dataset: {first_line(error)}") from None
        beside = [asyncio.create_task(task) for task in (self._lease.keep(), self._post_status(), self._keep_sound())]
        try:
            while self._may_work():
                await self._collect()
                if self._may_work():
                    await self._rounds.consider(redis_answers=self._outage is None)
        finally:
            for task in beside:
                task.cancel()
            self._metrics.set_lease_held(False)
            await self._rounds.stop()

    def _may_work(self) -> bool:
        return self._lease.held and not self._stopping.is_set()

    async def _keep_sound(self) -> None:
        """Check the current version from time to time."""
        while True:
            await asyncio.sleep(REPAIR_S)
            await self._repair()
            with contextlib.suppress(*TRANSIENT):  # tried again next time
                await self._rounds.plan_base()

    async def _repair(self) -> None:
        try:
            if (repaired := await asyncio.to_thread(repair, self._store)) is not None:
                log.error("the current version was damaged: %s", repaired)
        except OSError as error:
            log.warning("can't look after the versions: %s", first_line(error))

    async def _collect(self) -> None:
        """Collect one batch; while that fails, wait a little longer each time."""
        try:
            # Never cancelled: a read that is cancelled as its reply comes would strand the reply's pairs.
            self._metrics.collected.inc(await self._collector.collect(BLOCK_MS))
        except TRANSIENT as error:
            if self._outage is None:
                log.warning("can't collect: %s; trying until it works, nothing is lost", first_line(error))
            self._outage = f"can't collect: {first_line(error)}"
            self._metrics.set_health(self._outage, self._rounds.error)
            await pause(self._stopping, self._backoff.next_s())
        else:
            if self._outage is not None:
                log.info("collecting again")
            self._outage = None
            self._backoff.reset()

    async def _post_status(self) -> None:
        while True:
            try:
                self._metrics.set_health(self._outage, self._rounds.error)
                pairs, new = await self._dataset.run(lambda dataset: (dataset.count(), dataset.count_new()))
                self._metrics.pairs.set(pairs)
                self._metrics.new_pairs.set(new)
                dead_letters = await self._stream.count_dead_letters()
                self._metrics.dead_letters.set(dead_letters)
                status = self._rounds.status() | {"pairs": pairs, "new_pairs": new, "dead_letters": dead_letters}
                await self._heartbeats.post("trainer", status | {"error": self._outage or status["error"]})
            except TRANSIENT as error:
                log.debug("no heartbeat: %s", error)
            await asyncio.sleep(HEARTBEAT_S)
