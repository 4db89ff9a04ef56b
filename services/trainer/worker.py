"""The worker: collects for ever and starts a round when enough has come. Light: nothing heavy is imported here."""

import asyncio
import logging
import random
import sqlite3
import time

from redis.exceptions import RedisError

from services.trainer.child import run_child
from services.trainer.collector import Collector
from services.trainer.dataset import Dataset, Round
from services.trainer.progress import Progress, first_line
from services.trainer.schedule import Patience, due, yields_to_generation
from services.trainer.settings import TrainerSettings
from shared.model_store import ModelStore
from shared.status import StatusBoard

log = logging.getLogger(__name__)

BLOCK_MS = 1000
NOTE_S = 2.0
LOG_S = 15.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 5.0
RETRIES = 3
TRANSIENT = (RedisError, OSError, sqlite3.Error)


class Worker:
    """One dataset's trainer."""

    def __init__(
        self,
        *,
        collector: Collector,
        dataset: Dataset,
        store: ModelStore,
        board: StatusBoard,
        settings: TrainerSettings,
        base: str,
        stopping: asyncio.Event,
    ) -> None:
        self._collector, self._dataset, self._store, self._board = collector, dataset, store, board
        self._settings, self._base, self._stopping = settings, base, stopping
        self._waits = yields_to_generation(settings.wait_for_generation)
        self._patience = Patience(settings.wait_limit_seconds)
        self._waiting = False
        self._training: asyncio.Task[None] | None = None
        self._round: Round | None = None
        self._progress = Progress()
        self._fault: str | None = None
        self._not_before = 0.0  # a failed round's next try
        self._pairs = dataset.count()
        self._last_new = self._last_log = time.monotonic()

    async def run(self) -> None:
        """Work until `stopping` is set. Whatever is under way then is done again at the next start."""
        if self._store.current() is None and self._dataset.unfinished() is None:
            self._dataset.plan_base(self._settings.seed, self._base)
        notes = asyncio.create_task(self._post_notes())
        pause = FIRST_PAUSE_S
        log.info("collecting; the dataset has %d pairs, %d of them new", self._pairs, self._dataset.count_new())
        while not self._stopping.is_set():
            try:
                await self._collect()
                await self._consider_round()
                pause = FIRST_PAUSE_S
            except TRANSIENT as error:
                if pause == FIRST_PAUSE_S:  # once, however long it lasts
                    log.warning("can't collect: %s; trying until it works, nothing is lost", first_line(error))
                self._fault = f"can't collect: {first_line(error)}"
                await self._sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, LAST_PAUSE_S)
        notes.cancel()
        if self._training is not None:
            self._training.cancel()
        await asyncio.gather(notes, *filter(None, [self._training]), return_exceptions=True)

    async def _collect(self) -> None:
        await self._collector.collect(BLOCK_MS)
        self._note_growth()
        if self._fault is not None and self._fault.startswith("can't collect"):
            log.info("collecting again")
            self._fault = None

    def _note_growth(self) -> None:
        pairs = self._dataset.count()
        if pairs > self._pairs:
            self._pairs, self._last_new = pairs, time.monotonic()

    async def _consider_round(self) -> None:
        """Start a round if none runs and one is due: an unfinished one first."""
        now = time.monotonic()
        if self._training is not None:
            if not self._training.done():
                return
            self._training.result()  # a bug of ours ends the worker, rather than a round that starts over for ever
            self._training = None
        if now < self._not_before:
            return
        round_ = self._dataset.unfinished()
        idle = now - self._last_new
        if round_ is None and not due(self._dataset.count_new(), idle, self._settings):
            self._waiting = False
            return
        trains = round_ is None or round_.id > 0  # publishing the base takes no time worth waiting
        self._waiting = trains and self._waits and self._patience.lasts(await self._generation_is_busy(), now)
        if self._waiting:
            return
        if round_ is None:
            await self._collector.drain()
            self._note_growth()
            round_ = self._dataset.plan(self._settings.seed, self._base)
        self._round, self._progress = round_, Progress()
        self._training = asyncio.create_task(self._run_round(round_))

    async def _generation_is_busy(self) -> bool:
        note = await self._board.read("generation")
        return bool(note.get("running_jobs", 0))

    async def _run_round(self, round_: Round) -> None:
        """One try at a round."""
        try:
            self._dataset.begin(round_.id)
            log.info("round %d starts on %d pairs", round_.id, round_.pairs)
            outcome = await run_child(round_.id, self._tell)
            if outcome.fault is None and outcome.version is not None:
                self._dataset.finish(round_.id, outcome.version)
                self._fault = None
                log.info("round %d is published as %s %s", round_.id, outcome.version, outcome.scores or "")
            else:
                self._count_fault(round_, outcome.fault or "unknown")
        except (OSError, sqlite3.Error) as error:  # not the round's fault: the machine's
            self._not_before = time.monotonic() + LAST_PAUSE_S
            self._fault = f"round {round_.id}: {first_line(error)}"
            log.warning("%s; trying again in %.0f s", self._fault, LAST_PAUSE_S)

    def _count_fault(self, round_: Round, reason: str) -> None:
        faults = self._dataset.count_fault(round_.id, reason)
        self._fault = f"round {round_.id}: {reason}"
        if faults > RETRIES:
            self._dataset.fail(round_.id)
            log.error("%s; given up after %d tries, its pairs stay for the next round", self._fault, faults)
            return
        pause = self._settings.retry_seconds * 4 ** (faults - 1)
        self._not_before = time.monotonic() + pause
        log.warning("%s; running it again in %.0f s", self._fault, pause)

    def _tell(self, progress: Progress) -> None:
        self._progress = progress
        now = time.monotonic()
        if progress.seconds_left is not None and now - self._last_log >= LOG_S:
            self._last_log = now
            log.info("step %d of %d, loss %s, dev %s", progress.step, progress.steps, progress.loss, progress.dev)

    async def _post_notes(self) -> None:
        while True:
            try:
                await self._board.post("trainer", self._note())
            except TRANSIENT as error:
                log.debug("no note: %s", error)
            await asyncio.sleep(NOTE_S)

    def _note(self) -> dict[str, object]:
        """What the trainer does now."""
        busy = self._training is not None
        idle = "waiting for generation" if self._waiting else "collecting"
        return {
            "state": self._progress.state if busy else idle,
            "pairs": self._pairs,
            "new_pairs": self._dataset.count_new(),
            "round": self._round.id if self._round else None,
            **self._progress.model_dump(include={"step", "steps", "loss", "dev", "seconds_left"}),
            "version": self._store.current(),
            "fault": self._fault,
        }

    async def _sleep(self, seconds: float) -> None:
        """Sleep, unless it is time to stop."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
