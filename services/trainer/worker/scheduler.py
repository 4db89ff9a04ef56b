"""Runs rounds, one at a time: decides when one starts, and what follows from how its child process ended."""

import asyncio
import contextlib
import logging
import math
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from services.trainer.dataset.store import Dataset, Round
from services.trainer.progress import Progress
from services.trainer.settings import TrainerSettings, Wait
from services.trainer.students import names
from services.trainer.worker.collector import Collector
from services.trainer.worker.parts import Parts
from shared import tracing
from shared.backoff import Backoff
from shared.errors import Fatal, first_line
from shared.logs import log_context

log = logging.getLogger(__name__)

FEW_CORES = 8
NVIDIA = Path("/dev/nvidiactl")
RETRIES = 3
MACHINE_PAUSE_S, LOG_S = 5.0, 15.0
NOTHING = "there are no pairs and no passages to train on"
TRANSIENT = (RedisError, OSError, sqlite3.Error)
"""What passes without us: a Redis that is away, a full disk."""


def due(new_pairs: int, idle_s: float, settings: TrainerSettings) -> bool:
    """Whether the new pairs are worth a round: many, or some and then `idle_s` seconds without another."""
    some_and_quiet = new_pairs >= settings.round_min_pairs and idle_s >= settings.round_seconds
    return some_and_quiet or new_pairs >= settings.round_pairs


def retry_pause_s(failures: int, settings: TrainerSettings) -> float:
    """Seconds before a round that has failed so many times is run again."""
    return Backoff(settings.retry_seconds, math.inf, factor=4, jitter=0, failures=failures - 1).next_s()


def yields_to_generation(wait: Wait) -> bool:
    """Whether a round waits while pairs are generated."""
    # vLLM's worker threads spin in step: when training takes one of their few cores, all of them wait for it.
    is_slowed = (os.cpu_count() or 1) < FEW_CORES and not NVIDIA.exists()
    return is_slowed if wait == "auto" else wait == "always"


class Patience:
    """Waits for generation to end, but not for ever."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: float | None = None

    def lasts(self, busy: bool, now_s: float) -> bool:
        """Whether to wait on. The clock starts with the first call that finds generation busy and ends with False."""
        if self._since is None:
            self._since = now_s
        lasts = busy and now_s - self._since < self._limit_s
        self._since = self._since if lasts else None
        return lasts


class RoundScheduler:
    """The rounds of one dataset, under one lease."""

    def __init__(self, parts: Parts, collector: Collector) -> None:
        self._collector, self._dataset, self._store = collector, parts.dataset, parts.store
        self._heartbeats, self._requests, self._metrics = parts.heartbeats, parts.requests, parts.metrics
        self._settings, self._base, self._epoch = parts.own, parts.settings.student, parts.lease.epoch
        self._on_progress, self._run_round, self._live = parts.on_progress, parts.run_round, parts.live
        self._yields = yields_to_generation(parts.own.wait_for_generation)
        self._patience = Patience(parts.own.wait_limit_seconds)
        self._waiting = False
        self._running: asyncio.Task[None] | None = None
        self._round: int | None = None
        self._progress, self._not_before, self._last_log = Progress(), 0.0, 0.0
        self._tokens: list[str] = []
        """Of the requests for a round that aren't answered yet."""
        self.error: str | None = None
        """How the last try failed; None after a success."""

    async def plan_base(self) -> None:
        """Have the untrained base published, for `/embed`, if nothing else is. Raises OSError or sqlite3.Error."""

        def _plan(dataset: Dataset) -> None:
            current = self._store.current()
            missing = current is None or not (self._store.root / "versions" / current).is_dir()
            if missing and dataset.unfinished() is None:
                dataset.plan_base(self._settings.seed, self._base)

        await self._dataset.run(_plan)

    async def consider(self, redis_answers: bool) -> None:
        """Start a round if none runs and one is due. A new one needs Redis, to have everything that waits there."""
        if redis_answers:
            with contextlib.suppress(*TRANSIENT):
                self._tokens += await self._requests.take()
        if await self._is_running() or time.monotonic() < self._not_before:
            return
        try:
            round_ = await self._dataset.run(Dataset.unfinished)
            if round_ is None:
                may_start = redis_answers and await self._is_due()
            else:  # publishing the base takes no time worth waiting
                self._waiting = round_.id != 0 and await self._must_wait()
                may_start = not self._waiting
            if may_start:
                self._running = asyncio.create_task(self._plan_and_run(round_))
        except TRANSIENT as error:
            self._postpone("can't start a round", error)

    async def run_once(self) -> Round:
        """Run one round now and to its end, a planned one first; what became of it. Raises `Fatal`."""
        round_ = await self._dataset.run(Dataset.unfinished)
        if round_ is None:
            await self._collector.drain()
            if not await self._dataset.run(_has_data):
                raise Fatal(f"{NOTHING}: generate pairs, `dataset import` them, or `documents add`")
        await self._plan_and_run(round_)
        if self._round is None:
            raise Fatal(self.error or "the round did not start")
        id_ = self._round
        return await self._dataset.run(lambda dataset: dataset.round(id_))

    async def stop(self) -> None:
        """End the child process; its round goes on at the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def status(self) -> dict[str, Any]:
        """What goes on, for the heartbeat."""
        runs = self._running is not None and not self._running.done()
        idle = "waiting for generation" if self._waiting else "collecting"
        if not runs and self.error is not None and time.monotonic() < self._not_before:
            idle = "waiting to try again"
        return {
            "state": self._progress.state if runs else idle,
            "round": self._round,
            **self._progress.model_dump(include={"step", "steps", "loss", "dev", "seconds_left"}),
            "version": self._store.current(),
            "epoch": self._epoch,
            "error": self.error,
        }

    async def _is_running(self) -> bool:
        if self._running is None:
            return False
        if not self._running.done():
            if self._round is not None and self._tokens:
                await self._answer(str(self._round))  # who asks for a round may follow the one that runs
            return True
        self._running.result()  # a bug of ours ends the trainer, rather than a round that starts over for ever
        self._running = None
        return False

    async def _is_due(self) -> bool:
        """Whether to plan a round: because someone asked, or because of the new pairs."""
        if self._tokens:
            await self._collector.drain()
            if await self._dataset.run(_has_data):
                return True
            await self._answer(NOTHING)
        is_due = due(await self._dataset.run(Dataset.count_new), self._collector.idle_s, self._settings)
        self._waiting = is_due and await self._must_wait()
        if is_due and not self._waiting:
            await self._collector.drain()
        return is_due and not self._waiting

    async def _must_wait(self) -> bool:
        """Whether generation has the cores for now."""
        if not self._yields or self._tokens:
            return False
        status: dict[str, Any] = {}
        with contextlib.suppress(*TRANSIENT, ValueError):  # the heartbeat is only a hint
            status = await self._heartbeats.read("generation")
        return self._patience.lasts(bool(status.get("running_jobs")), time.monotonic())

    async def _plan_and_run(self, round_: Round | None) -> None:
        try:
            round_ = await self._with_hash(await self._plan() if round_ is None else round_)
            self._round, self._progress, self._last_log = round_.id, Progress(), time.monotonic()
            await self._answer(str(round_.id))
            if await self._has_its_base(round_):
                await self._run(round_)
        except TRANSIENT as error:
            self._postpone("can't run a round", error)

    async def _plan(self) -> Round:
        """Plan a round on all pairs up to now."""
        start = self._store.current() if self._settings.warm_start else None
        seed, base = self._settings.seed, self._base
        return await self._dataset.run(lambda dataset: dataset.plan(seed, base, start))

    async def _with_hash(self, round_: Round) -> Round:
        """The round with its dataset hash; computing it takes a second a million, in which collecting goes on."""
        if not round_.pairs or round_.dataset_hash is not None:
            return round_
        digest = await self._dataset.run_beside(lambda dataset: dataset.hash(round_))
        return await self._dataset.run(lambda dataset: dataset.set_hash(round_.id, digest))

    async def _answer(self, text: str) -> None:
        tokens, self._tokens = self._tokens, []
        for token in tokens:
            with contextlib.suppress(*TRANSIENT):  # whoever asked asks again
                await self._requests.answer(token, text)

    async def _has_its_base(self, round_: Round) -> bool:
        """Whether the base is there. It may come back: a disk that is not mounted yet. The round waits for it."""
        try:
            names.check(round_.base)
            return True
        except Fatal as missing:
            if round_.base == self._base:
                self._postpone(f"round {round_.id} waits for its base", missing)
                return False
            reason = f"its base is gone, and another is set now: {missing}"
        await self._dataset.run(lambda dataset: dataset.count_failure(round_.id, reason))
        await self._dataset.run(lambda dataset: dataset.fail(round_.id))
        await self.plan_base()
        return False

    async def _run(self, round_: Round) -> None:
        """One try at a round, in the trace of its new pairs, or in one of its own that is linked to theirs."""
        sources = await self._dataset.run(lambda dataset: dataset.traceparents(round_))
        parent = sources[0] if len(sources) == 1 else None
        await self._dataset.run(lambda dataset: dataset.begin(round_.id))
        began = time.monotonic()
        with log_context(round=round_.id), tracing.span(
            "round", parent=parent, links=[] if parent else sources, round=round_.id, pairs=round_.pairs
        ), self._metrics.running.track_inprogress():  # fmt: skip
            passages = await self._dataset.run(Dataset.count_passages)
            size = f"{round_.pairs} pairs, {passages} passages" if round_.id else "the untrained base"
            log.info("round %d starts: %s", round_.id, size)
            last = await self._run_child(round_)
            self._metrics.observe_round(last, time.monotonic() - began)
            tracing.set_attributes(outcome=last.outcome, version=last.version or "")
            with log_context(version=last.version):
                await self._conclude(round_, last)
            if last.outcome in ("published", "rejected", "held"):
                await self._end_traces(round_, [] if parent else sources, last)

    async def _run_child(self, round_: Round) -> Progress:
        """Run the round's process, and keep the curves however it ends."""
        self._live.begin(round_.id, await self._dataset.run(lambda dataset: dataset.curves(round_.id)))
        try:
            return await self._run_round(round_.id, self._epoch, self._follow)
        finally:
            curves = self._live.end()
            with contextlib.suppress(*TRANSIENT):
                await self._dataset.run(lambda dataset: dataset.set_curves(round_.id, curves))

    async def _end_traces(self, round_: Round, sources: list[str], last: Progress) -> None:
        """Have each of several traces end with the version that its pairs are in."""
        here = tracing.traceparent()
        for source in sources[-tracing.MAX_LINKS :]:
            with tracing.span("in round", parent=source, links=[here] if here else [], round=round_.id,
                              outcome=last.outcome, version=last.version):  # fmt: skip
                pass
        await self._dataset.run(lambda dataset: dataset.forget_traces(round_))

    async def _conclude(self, round_: Round, last: Progress) -> None:
        version = last.version
        if last.error is not None and last.transient:
            self._postpone(f"round {round_.id}", Exception(last.error))
        elif last.error is not None or version is None:
            await self._retry_or_fail(round_, last.error or "no version came of it")
        else:
            await self._dataset.run(lambda dataset: dataset.finish(round_.id, version, _reason(last)))
            self.error = None
            if last.rejection is not None:
                current = self._store.current()
                log.warning("round %d is %s, %s stays current: %s", round_.id, last.outcome, current, last.rejection)
            else:
                await self._heartbeats.announce(version)
                pinned, scores = (
                    self._store.pinned(),
                    "".join(f", {name} {one:.2f}" for name, one in last.scores.items()),
                )
                stays = f"; {pinned} is pinned and stays current" if pinned not in (None, version) else ""
                log.info("round %d is published as %s%s%s", round_.id, version, scores, stays)

    def _postpone(self, what: str, error: Exception) -> None:
        """The machine's error, not the round's: it doesn't count."""
        self._not_before = time.monotonic() + MACHINE_PAUSE_S
        message = f"{what}: {first_line(error)}"
        if message != self.error:  # once, not every few seconds for a night
            log.warning("%s; trying every %.0f s until it works", message, MACHINE_PAUSE_S)
        self.error = message

    async def _retry_or_fail(self, round_: Round, reason: str) -> None:
        """Run the round again after a pause that grows, or give it up."""
        failures = await self._dataset.run(lambda dataset: dataset.count_failure(round_.id, reason))
        self.error = f"round {round_.id}: {reason}"
        if failures > RETRIES:
            await self._dataset.run(lambda dataset: dataset.fail(round_.id))
            log.error("%s; given up after %d tries, its pairs stay for the next round", self.error, failures)
        else:
            pause_s = retry_pause_s(failures, self._settings)
            self._not_before = time.monotonic() + pause_s
            log.warning("%s; running it again in %.0f s", self.error, pause_s)

    def _follow(self, progress: Progress) -> None:
        self._progress = progress
        self._live.follow(progress)
        self._metrics.set_progress(progress)
        if self._round is not None:
            self._on_progress(self._round, progress)
        if progress.loss is not None and time.monotonic() - self._last_log >= LOG_S:
            self._last_log = time.monotonic()
            numbers = progress.step, progress.steps, progress.loss, progress.seconds_left or 0
            log.info("step %d of %d, loss %.4f, %.0f s left", *numbers)


def _has_data(dataset: Dataset) -> bool:
    return dataset.count() > 0 or dataset.count_passages() > 0


def _reason(last: Progress) -> str | None:
    """Why a version isn't published, as the round's row keeps it."""
    return f"held: {last.rejection}" if last.held else last.rejection
