"""Runs rounds, one at a time: decides when one starts, and what follows from how its child process ended."""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError

from services.trainer.dataset.store import Dataset, Round, open_dataset
from services.trainer.metrics import Metrics, outcome_of
from services.trainer.progress import Progress
from services.trainer.settings import TrainerSettings
from services.trainer.students import locate
from services.trainer.worker.child import run_child
from services.trainer.worker.collector import Collector
from services.trainer.worker.round_policy import Patience, due, yields_to_generation
from services.trainer.worker.round_requests import RoundRequests
from shared import tracing
from shared.errors import Fatal, first_line
from shared.heartbeat import Heartbeats
from shared.logs import log_context
from shared.model_store import ModelStore

log = logging.getLogger(__name__)

RETRIES = 3
MACHINE_PAUSE_S = 5.0
LOG_S = 15.0
TRANSIENT = (RedisError, OSError, sqlite3.Error)
"""What passes without us: a Redis that is away, a full disk."""


class RoundScheduler:
    """The rounds of one dataset, under one lease. `base` is the student that rounds start from."""

    def __init__(
        self,
        collector: Collector,
        dataset: Dataset,
        folder: Path,
        store: ModelStore,
        board: Heartbeats,
        requests: RoundRequests,
        settings: TrainerSettings,
        base: str,
        epoch: int = 0,
        metrics: Metrics | None = None,
        watch: Callable[[int, Progress], None] = lambda _round, _progress: None,
    ) -> None:
        self._collector, self._dataset, self._folder = collector, dataset, folder
        self._store, self._board, self._requests = store, board, requests
        self._settings, self._base, self._epoch, self._watch = settings, base, epoch, watch
        self._metrics = metrics or Metrics(CollectorRegistry())
        self._yields = yields_to_generation(settings.wait_for_generation)
        self._patience = Patience(settings.wait_limit_seconds)
        self._waiting = False
        self._running: asyncio.Task[None] | None = None
        self._round: int | None = None
        self._progress = Progress()
        self._not_before = 0.0
        self._last_log = 0.0
        self._wanted: list[str] = []
        self.fault: str | None = None
        """How the last try failed; None after a success."""

    def plan_base(self) -> None:
        """Have the untrained base published if there is nothing to serve, so that `/embed` answers from the start.

        Raises `Fatal` when the disk refuses, which then is full or failing at the very start.
        """
        try:
            current = self._store.current()
            gone = current is None or not (self._store.root / "versions" / current).is_dir()
            if gone and self._dataset.unfinished() is None:
                self._dataset.plan_base(self._settings.seed, self._base)
        except (OSError, sqlite3.Error) as error:
            raise Fatal(f"PAIRWRIGHT_HOME: can't write the dataset: {first_line(error)}") from None

    async def consider(self, redis_answers: bool) -> None:
        """Start a round if none runs and one is due. A new one needs Redis, to have everything that waits there."""
        if redis_answers:
            self._wanted += await self._asked()
        if await self._is_running() or time.monotonic() < self._not_before:
            return
        try:
            unfinished = self._dataset.unfinished()
            if unfinished is not None:
                if not await self._may_resume(unfinished):
                    return
            elif not redis_answers or not await self._is_due():
                return
        except TRANSIENT as error:
            self._postpone("can't start a round", error)
            return
        self._running = asyncio.create_task(self._plan_and_run(unfinished))

    async def once(self) -> Round:
        """Run one round now and to its end, a planned one first; what became of it. Raises `Fatal`."""
        unfinished = self._dataset.unfinished()
        if unfinished is None:
            await self._collector.drain()
            if not self._dataset.count():
                raise Fatal("there are no pairs to train on: generate some, or `dataset import` them")
        await self._plan_and_run(unfinished)
        if self._round is None:
            raise Fatal(self.fault or "the round did not start")
        return self._dataset.round(self._round)

    async def stop(self) -> None:
        """End the child process; its round goes on at the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def note(self) -> dict[str, Any]:
        """What goes on, for the status board."""
        runs = self._running is not None and not self._running.done()
        idle = "waiting for generation" if self._waiting else "collecting"
        if not runs and self.fault is not None and time.monotonic() < self._not_before:
            idle = "waiting to try again"
        return {
            "state": self._progress.state if runs else idle,
            "round": self._round,
            **self._progress.model_dump(include={"step", "steps", "loss", "dev", "seconds_left"}),
            "version": self._store.current(),
            "epoch": self._epoch,
            "fault": self.fault,
        }

    async def _is_running(self) -> bool:
        if self._running is None:
            return False
        if not self._running.done():
            if self._round is not None and self._wanted:
                await self._answer(str(self._round))  # who asks for a round may watch the one that runs
            return True
        self._running.result()  # a bug of ours ends the trainer, rather than a round that starts over for ever
        self._running = None
        return False

    async def _asked(self) -> list[str]:
        try:
            return await self._requests.take()
        except TRANSIENT:
            return []

    async def _may_resume(self, round_: Round) -> bool:
        return round_.id == 0 or not await self._must_wait()  # publishing the base takes no time worth waiting

    async def _is_due(self) -> bool:
        """Whether to plan a round: because someone asked, or because of the new pairs."""
        if self._wanted:
            await self._collector.drain()
            if self._dataset.count():
                return True
            await self._answer("there are no pairs to train on")
        if not due(self._dataset.count_new(), self._collector.idle_s, self._settings):
            self._waiting = False
            return False
        if await self._must_wait():
            return False
        await self._collector.drain()
        return True

    async def _must_wait(self) -> bool:
        """Whether generation has the cores for now."""
        self._waiting = (
            self._yields
            and not self._wanted
            and self._patience.lasts(await self._generation_is_busy(), time.monotonic())
        )
        return self._waiting

    async def _generation_is_busy(self) -> bool:
        try:
            return bool((await self._board.read("generation")).get("running_jobs", 0))
        except (*TRANSIENT, ValueError):
            return False  # the note is only a hint

    async def _plan_and_run(self, round_: Round | None) -> None:
        try:
            if round_ is None:
                round_ = await self._plan()
            self._round, self._progress, self._last_log = round_.id, Progress(), time.monotonic()
            await self._answer(str(round_.id))
            if self._has_its_base(round_):
                await self._run(round_)
        except TRANSIENT as error:
            self._postpone("can't run a round", error)

    async def _plan(self) -> Round:
        """Plan a round on all pairs up to now; naming a million of them takes a second, which collecting goes on in."""
        pairs = self._dataset.count()
        dataset_hash = await asyncio.to_thread(_hash, self._folder, pairs)
        start = self._store.current() if self._settings.warm_start else None
        return self._dataset.plan(self._settings.seed, self._base, pairs, dataset_hash, start)

    async def _answer(self, said: str) -> None:
        wanted, self._wanted = self._wanted, []
        for token in wanted:
            with contextlib.suppress(*TRANSIENT):  # whoever asked asks again
                await self._requests.answer(token, said)

    def _has_its_base(self, round_: Round) -> bool:
        """Whether the base is there. It may come back: a disk that is not mounted yet. The round waits for it."""
        try:
            locate.check(round_.base)
        except Fatal as fatal:
            if round_.base != self._base:
                self._dataset.count_fault(round_.id, f"its base is gone, and another is set now: {fatal}")
                self._dataset.fail(round_.id)
                self.plan_base()
                return False
            self._postpone(f"round {round_.id} waits for its base", fatal)
            return False
        return True

    async def _run(self, round_: Round) -> None:
        """One try at a round, in the trace of its new pairs, or in one of its own that is linked to theirs."""
        sources = self._dataset.traceparents(round_)
        parent = sources[0] if len(sources) == 1 else None
        self._dataset.begin(round_.id)
        began = time.monotonic()
        with log_context(round=round_.id), tracing.span(
            "round", parent=parent, links=[] if parent else sources, round=round_.id, pairs=round_.pairs
        ), self._metrics.running.track_inprogress():  # fmt: skip
            log.info(
                "round %d starts: %s", round_.id, f"{round_.pairs} pairs" if round_.pairs else "the untrained base"
            )
            outcome = await run_child(round_.id, self._epoch, self._tell)
            self._metrics.tried(outcome, time.monotonic() - began)
            tracing.set_attributes(outcome=outcome_of(outcome), version=outcome.version or "")
            with log_context(version=outcome.version):
                await self._conclude(round_, outcome)
            if outcome.version is not None and outcome.fault is None:
                self._tell_traces(round_, [] if parent else sources, outcome)

    def _tell_traces(self, round_: Round, sources: list[str], outcome: Progress) -> None:
        """Have each of several traces end with the version that its pairs are in."""
        here = tracing.traceparent()
        for source in sources[-tracing.MAX_LINKS :]:
            with tracing.span("in round", parent=source, links=[here] if here else [], round=round_.id,
                              outcome=outcome_of(outcome), version=outcome.version):  # fmt: skip
                pass
        self._dataset.forget_traces(round_)

    async def _conclude(self, round_: Round, outcome: Progress) -> None:
        if outcome.fault is not None and outcome.passing:
            self._postpone(f"round {round_.id}", Exception(outcome.fault))
            return
        if outcome.fault is not None or outcome.version is None:
            self._count_fault(round_, outcome.fault or "no version came of it")
            return
        self._dataset.finish(round_.id, outcome.version, outcome.rejection)
        self.fault = None
        if outcome.rejection is not None:
            log.warning(
                "round %d is rejected, %s stays current: %s", round_.id, self._store.current(), outcome.rejection
            )
            return
        await self._board.announce(outcome.version)
        log.info("round %d is published as %s%s", round_.id, outcome.version, _spoken(outcome.scores))

    def _postpone(self, what: str, error: Exception) -> None:
        """The machine's fault, not the round's: it doesn't count."""
        self._not_before = time.monotonic() + MACHINE_PAUSE_S
        fault = f"{what}: {first_line(error)}"
        if fault != self.fault:  # once, not every few seconds for a night
            log.warning("%s; trying every %.0f s until it works", fault, MACHINE_PAUSE_S)
        self.fault = fault

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
        self._metrics.goes_on(progress)
        if self._round is not None:
            self._watch(self._round, progress)
        if progress.loss is not None and time.monotonic() - self._last_log >= LOG_S:
            self._last_log = time.monotonic()
            log.info(
                "step %d of %d, loss %.4f, %.0f s left",
                progress.step,
                progress.steps,
                progress.loss,
                progress.seconds_left or 0,
            )


def _hash(folder: Path, pairs: int) -> str | None:
    """In a thread, so with a connection of its own."""
    with open_dataset(folder, read_only=True) as dataset:
        return dataset.hash(pairs)


def _spoken(scores: dict[str, float]) -> str:
    return "".join(f", {name} {value:.2f}" for name, value in scores.items())
