"""Runs rounds, one at a time: decides when one starts, and what follows from how its child process ended."""

import asyncio
import logging
import sqlite3
import time
from typing import Any

from redis.exceptions import RedisError

from services.trainer.child import run_child
from services.trainer.collector import Collector
from services.trainer.dataset import Dataset, Round
from services.trainer.progress import Progress, first_line
from services.trainer.schedule import Patience, due, yields_to_generation
from services.trainer.settings import TrainerSettings
from shared.model_store import ModelStore
from shared.process import Fatal
from shared.status import StatusBoard

log = logging.getLogger(__name__)

RETRIES = 3
MACHINE_PAUSE_S = 5.0
LOG_S = 15.0
TRANSIENT = (RedisError, OSError, sqlite3.Error)
"""What passes without us: a Redis that is away, a full disk."""


class Rounds:
    """The rounds of one dataset. `base` is the student that every round starts from."""

    def __init__(
        self,
        collector: Collector,
        dataset: Dataset,
        store: ModelStore,
        board: StatusBoard,
        settings: TrainerSettings,
        base: str,
    ) -> None:
        self._collector, self._dataset, self._store, self._board = collector, dataset, store, board
        self._settings, self._base = settings, base
        self._yields = yields_to_generation(settings.wait_for_generation)
        self._patience = Patience(settings.wait_limit_seconds)
        self._waiting = False
        self._running: asyncio.Task[None] | None = None
        self._round: int | None = None
        self._progress = Progress()
        self._not_before = 0.0
        self._last_log = 0.0
        self.fault: str | None = None
        """How the last try failed; None after a success."""

    def plan_base(self) -> None:
        """Have the untrained base published if there is nothing to serve, so that `/embed` answers from the start.

        Raises `Fatal` when the disk refuses, which then is full or failing at the very start.
        """
        try:
            if self._store.current() is None and self._dataset.unfinished() is None:
                self._dataset.plan_base(self._settings.seed, self._base)
        except (OSError, sqlite3.Error) as error:
            raise Fatal(f"PAIRWRIGHT_HOME: can't write the dataset: {first_line(error)}") from None

    async def consider(self, redis_answers: bool) -> None:
        """Start a round if none runs and one is due. A new one needs Redis, to have everything that waits there."""
        if self._running is not None:
            if not self._running.done():
                return
            self._running.result()  # a bug of ours ends the trainer, rather than a round that starts over for ever
            self._running = None
        if time.monotonic() < self._not_before:
            return
        try:
            round_ = await self._next(redis_answers)
        except TRANSIENT as error:
            self._postpone("can't start a round", error)
            return
        if round_ is not None:
            self._round, self._progress, self._last_log = round_.id, Progress(), time.monotonic()
            self._running = asyncio.create_task(self._run(round_))

    async def stop(self) -> None:
        """End the child process; its round runs again at the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def note(self) -> dict[str, Any]:
        """What goes on, for the status board."""
        idle = "waiting for generation" if self._waiting else "collecting"
        return {
            "state": self._progress.state if self._running is not None and not self._running.done() else idle,
            "round": self._round,
            **self._progress.model_dump(include={"step", "steps", "loss", "dev", "seconds_left"}),
            "version": self._store.current(),
            "fault": self.fault,
        }

    async def _next(self, redis_answers: bool) -> Round | None:
        """The round to run now, if any: an unfinished one first."""
        unfinished = self._dataset.unfinished()
        if unfinished is not None:
            trains = unfinished.id > 0  # publishing the base takes no time worth waiting
            return None if trains and await self._must_wait() else unfinished
        if not redis_answers or not due(self._dataset.count_new(), self._collector.idle_s, self._settings):
            self._waiting = False
            return None
        if await self._must_wait():
            return None
        await self._collector.drain()
        return self._dataset.plan(self._settings.seed, self._base)

    async def _must_wait(self) -> bool:
        """Whether generation has the cores for now."""
        self._waiting = self._yields and self._patience.lasts(await self._generation_is_busy(), time.monotonic())
        return self._waiting

    async def _generation_is_busy(self) -> bool:
        try:
            return bool((await self._board.read("generation")).get("running_jobs", 0))
        except (*TRANSIENT, ValueError):
            return False  # the note is only a hint

    async def _run(self, round_: Round) -> None:
        """One try at a round."""
        try:
            self._dataset.begin(round_.id)
            log.info(
                "round %d starts: %s", round_.id, f"{round_.pairs} pairs" if round_.pairs else "the untrained base"
            )
            outcome = await run_child(round_.id, self._tell)
            if outcome.fault is not None or outcome.version is None:
                self._count_fault(round_, outcome.fault or "no version came of it")
                return
            self._dataset.finish(round_.id, outcome.version)
            self.fault = None
            log.info("round %d is published as %s%s", round_.id, outcome.version, _spoken(outcome.scores))
        except (OSError, sqlite3.Error) as error:
            self._postpone(f"round {round_.id}", error)

    def _postpone(self, what: str, error: Exception) -> None:
        """The machine's fault, not the round's: it doesn't count."""
        self._not_before = time.monotonic() + MACHINE_PAUSE_S
        self.fault = f"{what}: {first_line(error)}"
        log.warning("%s; trying again in %.0f s", self.fault, MACHINE_PAUSE_S)

    def _count_fault(self, round_: Round, reason: str) -> None:
        """Run the round again after a pause that grows, or give it up."""
        faults = self._dataset.count_fault(round_.id, reason)
        self.fault = f"round {round_.id}: {reason}"
        if faults > RETRIES:
            self._dataset.fail(round_.id)
            log.error("%s; given up after %d tries, its pairs stay for the next round", self.fault, faults)
            return
        pause = self._settings.retry_seconds * 4 ** (faults - 1)
        self._not_before = time.monotonic() + pause
        log.warning("%s; running it again in %.0f s", self.fault, pause)

    def _tell(self, progress: Progress) -> None:
        self._progress = progress
        if progress.loss is not None and time.monotonic() - self._last_log >= LOG_S:
            self._last_log = time.monotonic()
            log.info(
                "step %d of %d, loss %.4f, %.0f s left",
                progress.step,
                progress.steps,
                progress.loss,
                progress.seconds_left or 0,
            )


def _spoken(scores: dict[str, float]) -> str:
    return "".join(f", {name} {value:.2f}" for name, value in scores.items())
