"""Runs jobs: units to the engine, pairs to the stream, results to the job store; waits out what passes.

A lost Redis or a full stream pauses a job, it never fails one and loses nothing. A dead engine fails nothing either:
the process ends and the jobs resume with the next one.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Metric
from redis.exceptions import RedisError

from services.generation.engine import EngineDead
from services.generation.generator import PairGenerator, Plan, Unit, Written
from services.generation.jobs import FINISHED, Job, JobStore
from services.generation.tasks import Tasks, TaskSpec
from shared.pairs import PairRecord, Provenance
from shared.status import StatusBoard
from shared.stream import Append, Offer, PairStream

log = logging.getLogger(__name__)

Result = TypeVar("Result")

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 2.0
NOTE_EVERY_S = 2.0
CANCEL_WAIT_S = 5.0
REMEMBERED = 200
"""Finished jobs kept in memory; older ones are read from Redis."""


class TooManyJobs(Exception):
    """As many jobs are open as may be."""


class KeyReused(Exception):
    """The caller's key belongs to a job with another plan."""


class JobRunner:
    """All jobs of this process."""

    def __init__(
        self,
        *,
        generator: PairGenerator,
        tasks: Tasks,
        store: JobStore,
        stream: PairStream,
        board: StatusBoard,
        dataset: str,
        teacher: str,
        registry: CollectorRegistry,
        max_open: int,
        max_running: int,
    ) -> None:
        self._generator, self._tasks, self._store, self._stream = generator, tasks, store, stream
        self._board, self._dataset, self._teacher, self._max_open = board, dataset, teacher, max_open
        self._turns = asyncio.Semaphore(max_running)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Condition()
        self._note_due = asyncio.Event()
        self._accepted = Metric("pairwright_pairs_accepted", "Pairs put into the stream.", ["label"], registry=registry)
        self._rejected = Metric("pairwright_samples_rejected", "Samples thrown away.", ["reason"], registry=registry)
        self.engine_died = asyncio.Event()

    @property
    def open_jobs(self) -> int:
        """Queued and running jobs."""
        return len(self._runs)

    async def resume(self) -> None:
        """Take up the jobs that an earlier process left open. Waits for Redis as long as it takes."""
        for job in await self._outlast(None, "Redis", self._store.open_jobs):
            if job.id in self._jobs:  # submitted to this process while we asked
                continue
            log.info("resuming job %s: %d of %d pairs are there", job.id, job.accepted.total(), job.requested)
            self._launch(job)

    async def submit(self, plan: Plan, task: TaskSpec, key: str | None) -> Job:
        """A durable, queued job, or the one that an earlier call with the same key made.

        Raises `TooManyJobs`, `KeyReused` or redis errors.
        """
        if self.open_jobs >= self._max_open:
            raise TooManyJobs
        job, new = await self._store.create(plan, plan.pairs_requested(task), key)
        if not new:
            job = await self.get(job.id) or job
            if job.plan != plan:
                raise KeyReused
        # Not new and not running: the reply to the call that made it was lost.
        if job.id not in self._runs and not job.done:
            self._launch(job)
        return self._jobs.get(job.id, job)

    async def get(self, id_: str) -> Job | None:
        """A job of this or an earlier process; None if unknown."""
        return self._jobs.get(id_) or await self._store.load(id_)

    async def cancel(self, job: Job) -> None:
        """Stop a job. Pairs that were accepted stay."""
        run = self._runs.get(job.id)
        if run is not None and not job.done:
            job.cancel_asked = True
            run.cancel()
            await asyncio.wait([run], timeout=CANCEL_WAIT_S)

    async def wait(self, job: Job, seconds: float) -> None:
        """Until the job is done, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: job.done)

    async def next_change(self, seconds: float) -> None:
        """Until any job changes, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait()

    async def post_notes(self) -> None:
        """Tell on the status board, for ever, whether we generate: a trainer on the same cores waits for that."""
        while True:
            self._note_due.clear()
            with contextlib.suppress(RedisError, OSError):
                await self._board.post("generation", {"running_jobs": self.open_jobs})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._note_due.wait(), NOTE_EVERY_S)

    async def stop(self, within_s: float) -> None:
        """Leave all jobs where they are, units being delivered finished first; the next process resumes them."""
        runs = list(self._runs.values())
        for run in runs:
            run.cancel()
        if runs:
            await asyncio.wait(runs, timeout=within_s)

    # ---- one job

    def _launch(self, job: Job) -> None:
        self._jobs[job.id] = job
        while len(self._jobs) > REMEMBERED + len(self._runs):
            oldest = next((id_ for id_, known in self._jobs.items() if known.done), None)
            if oldest is None:
                break
            del self._jobs[oldest]
        run = asyncio.create_task(self._run(job), name=f"job-{job.id}")
        self._runs[job.id] = run
        run.add_done_callback(lambda _run: self._ended(job))
        self._note_due.set()

    def _ended(self, job: Job) -> None:
        self._runs.pop(job.id, None)
        self._note_due.set()

    async def _run(self, job: Job) -> None:
        try:
            async with self._turns:
                await self._run_in_turn(job)
        except asyncio.CancelledError:
            if not job.cancel_asked:
                raise  # the process stops; the job does not
            await self._finish(job, "cancelled")

    async def _run_in_turn(self, job: Job) -> None:
        try:
            task = self._tasks.get(job.plan.task)
            job.state, job.started = "running", job.started or time.time()
            await self._outlast(job, "Redis", lambda: self._store.save(job))
            await self._write_units(job, task)
        except* EngineDead as dead:
            log.error("job %s waits for a new process: %s", job.id, _first(dead))
            self.engine_died.set()
        except* Exception as group:
            error = _first(group)
            log.exception("job %s failed", job.id)
            job.fault = f"{type(error).__name__}: {error}"
            await self._finish(job, "failed")
        else:
            await self._finish(job, "complete" if job.accepted.total() == job.requested else "exhausted")

    async def _write_units(self, job: Job, task: TaskSpec) -> None:
        missing = iter([number for number in range(job.plan.units) if number not in job.units_done])

        async def worker() -> None:
            for number in missing:
                unit = await self._generator.write(task, job.plan, number)
                await _to_its_end(self._deliver(job, unit))

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self._generator.units_in_flight(task, job.plan), job.plan.units)):
                workers.create_task(worker())

    async def _deliver(self, job: Job, unit: Unit) -> None:
        """Offer a unit's pairs, record the unit, count it."""
        offers = [Offer(self._record(job, written), f"{job.id}/{written.slot}") for written in unit.written]
        answers = await self._append(job, offers)
        accepted = [written for written, answer in zip(unit.written, answers, strict=True) if answer == Append.ACCEPTED]
        rejected = unit.rejected + Counter(duplicate=answers.count(Append.DUPLICATE))
        record = {"pairs": [_pair_view(written) for written in accepted], "rejected": +rejected}
        await self._outlast(job, "Redis", lambda: self._store.record(job, unit.number, record))
        job.count(unit.number, record)
        for written in accepted:
            self._accepted.labels(written.label).inc()
        for reason, samples in rejected.items():
            self._rejected.labels(reason).inc(samples)
        await self._notify()

    async def _append(self, job: Job, offers: list[Offer]) -> list[Append]:
        """Offer until no answer is FULL or the job is cancelled. Repeated offers are answered as the first time."""
        pause = FIRST_PAUSE_S
        while True:
            answers = await self._outlast(job, "Redis", lambda: self._stream.append(offers))
            if Append.FULL not in answers or job.cancel_asked:
                return answers
            job.waiting_for = "the trainer: the pair stream is full"
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE_S)
            job.waiting_for = None

    def _record(self, job: Job, written: Written) -> PairRecord:
        provenance = Provenance(
            dataset=self._dataset,
            task=job.plan.task,
            label=written.label,
            job=job.id,
            teacher=self._teacher,
            seed=written.seed,
        )
        return PairRecord(pair=written.pair, provenance=provenance)

    async def _finish(self, job: Job, state: Any) -> None:
        assert state in FINISHED
        job.state, job.finished, job.waiting_for = state, time.time(), None
        await self._outlast(job, "Redis", lambda: self._store.save(job))
        view = job.view()
        log.info("job %s %s: %d of %d pairs, rejected %s", job.id, state, view["accepted"], job.requested, job.rejected)
        await self._notify()

    async def _outlast(self, job: Job | None, what: str, call: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `call`, repeated until Redis answers."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                result = await call()
            except (RedisError, OSError) as error:
                if pause == FIRST_PAUSE_S:
                    log.warning("waiting for %s: %s", what, error)
                if job is not None:
                    job.waiting_for = f"{what}: {error}"
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(pause * 2, LAST_PAUSE_S)
            else:
                if job is not None:
                    job.waiting_for = None
                return result

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _first(error: BaseException) -> BaseException:
    """The first error inside nested exception groups, which task groups make of it."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _to_its_end(step: Coroutine[Any, Any, None]) -> None:
    """Await a step that must not be left half done: a cancellation takes effect after it."""
    running = asyncio.ensure_future(step)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _pair_view(written: Written) -> dict[str, Any]:
    """A pair as the API shows it: the pair itself with its label."""
    return {**written.pair.model_dump(), "label": written.label}
