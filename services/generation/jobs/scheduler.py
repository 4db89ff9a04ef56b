"""Runs the dataset's open jobs, whoever took them at the door, oldest first and several at a time.

A dead engine fails no job: the process ends, and the jobs go on with the next one or with another service.
"""

import asyncio
import contextlib
import logging
import time
import uuid

from redis.exceptions import RedisError

from services.generation.decoding.base import EngineDead
from services.generation.jobs.store import JobStore, Status
from services.generation.jobs.worker import JobWorker
from services.generation.metrics import Metrics
from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.plan import InvalidPlan, Plan
from services.generation.pairs.tasks import Tasks
from shared import tracing
from shared.heartbeat import Heartbeats
from shared.logs import log_context
from shared.stream import PairStream

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
NOTE_EVERY_S = 2.0
POLL_S = 0.3
CANCEL_WAIT_S = 5.0


class KeyReused(Exception):
    """The caller's key belongs to a job with another plan."""


class JobScheduler:
    """All jobs of this process."""

    def __init__(
        self,
        *,
        generator: PairGenerator,
        tasks: Tasks,
        store: JobStore,
        stream: PairStream,
        board: Heartbeats,
        dataset: str,
        teacher: str,
        metrics: Metrics,
        max_open: int,
        max_running: int,
    ) -> None:
        self._generator, self._tasks, self._store, self._stream = generator, tasks, store, stream
        self._board, self._dataset, self._teacher = board, dataset, teacher
        self._max_open, self._max_running = max_open, max_running
        self._metrics = metrics
        metrics.backlog_limit.set(stream.limit)
        self._who = uuid.uuid4().hex
        self._running: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, JobWorker] = {}
        self._unreadable: set[str] = set()
        self._changed = asyncio.Condition()
        self._look = asyncio.Event()
        self.open_jobs = 0
        """Of the dataset, when last looked at."""
        self.engine_died = asyncio.Event()

    # ---- for the door

    async def submit(self, plan: Plan, key: str | None, request_id: str | None = None) -> Status:
        """A durable, queued job, or the one that an earlier call with the same key made.

        The plan must be written out. Raises `TooManyJobs`, `KeyReused` or redis errors.
        """
        requested = plan.pairs_requested(plan.spec)
        status = Status("", task=plan.spec.task_name, preset=plan.preset, requested=requested)
        status.request_id, status.traceparent = request_id, tracing.traceparent()
        status.id, new = await self._store.create(plan, status, key, self._max_open)
        if not new and await self._store.plan(status.id) != plan:
            raise KeyReused
        self._look.set()
        return await self.status(status.id) or status

    async def status(self, id_: str) -> Status | None:
        """A job of this or any other service; None if unknown."""
        run = self._runs.get(id_)
        try:
            return await self._store.status(id_)
        except (RedisError, OSError):
            if run is None:
                raise
            return run.status  # as far as this service knows; it says that it waits for Redis

    async def cancel(self, status: Status) -> None:
        """Stop a job. Pairs that were accepted stay. Returns once it has stopped, or after a few seconds."""
        if status.done:
            return
        await self._store.ask_to_cancel(status.id)
        self._look.set()
        await self.wait(status.id, CANCEL_WAIT_S)

    async def wait(self, id_: str, seconds: float) -> None:
        """Until the job is done, at most `seconds`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            status = await self.status(id_)
            if status is None or status.done:
                return
            await self.next_change(min(left, POLL_S))

    async def next_change(self, seconds: float) -> None:
        """Until any job changes here, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait()

    # ---- for the process

    async def run(self) -> None:
        """Run what is open, for ever."""
        while True:
            try:
                ids = await self._store.open_ids()
                self.open_jobs = len(ids)
                for id_ in ids:
                    if len(self._running) >= self._max_running:
                        break
                    if id_ not in self._running and id_ not in self._unreadable:
                        await self._start(id_)
            except (RedisError, OSError) as error:
                log.debug("can't look for jobs: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._look.wait()
            self._look.clear()

    async def post_notes(self) -> None:
        """Tell on the status board, for ever, whether we generate: a trainer on the same cores waits for that."""
        while True:
            try:
                await self._board.post("generation", {"running_jobs": self.open_jobs})
                self._metrics.backlog.set(await self._stream.backlog())
                self._metrics.redis_up.set(1)
            except (RedisError, OSError):
                self._metrics.redis_up.set(0)
            self._metrics.open_jobs.set(self.open_jobs)
            await self.next_change(NOTE_EVERY_S)
            await asyncio.sleep(0.1)

    async def stop(self, within_s: float) -> None:
        """Leave all jobs where they are: other services, or the next one, go on with them."""
        runs = list(self._running.values())
        for run in runs:
            run.cancel()
        if runs:
            await asyncio.wait(runs, timeout=within_s)

    async def _start(self, id_: str) -> None:
        try:
            status, plan = await self._store.status(id_), await self._store.plan(id_)
            if status is None or plan is None:
                raise ValueError("a part of it is missing")
            job = Job(plan.written_out(self._tasks), client=id_)
        except (ValueError, KeyError, TypeError, InvalidPlan) as error:
            # Written by another version, perhaps: it must not keep the others from running.
            self._unreadable.add(id_)
            log.error("job %s can't be read and is left alone: %s", id_, str(error).splitlines()[0])
            return
        if status.done:
            return
        run = JobWorker(
            status,
            job,
            who=self._who,
            generator=self._generator,
            store=self._store,
            stream=self._stream,
            dataset=self._dataset,
            teacher=self._teacher,
            counts=self._metrics,
            changed=self._notify,
        )
        self._runs[id_] = run
        self._running[id_] = asyncio.create_task(self._see_through(run), name=f"job-{id_}")
        self._running[id_].add_done_callback(lambda _task: self._ended(id_))

    def _ended(self, id_: str) -> None:
        self._running.pop(id_, None)
        self._runs.pop(id_, None)
        self._look.set()

    async def _see_through(self, run: JobWorker) -> None:
        status = run.status
        try:
            with (
                log_context(job=status.id, request_id=status.request_id),
                tracing.span("job", parent=status.traceparent, job=status.id, task=status.task),
            ):
                await run.run()
        except* EngineDead as dead:
            log.error("job %s waits for another engine: %s", run.status.id, _first(dead))
            self.engine_died.set()
        except* Exception as group:
            error = _first(group)
            with log_context(job=run.status.id, request_id=run.status.request_id):
                log.exception("job %s failed", run.status.id)
            await run.fail(f"{type(error).__name__}: {error}")

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _first(error: BaseException) -> BaseException:
    """The first error inside nested exception groups, which task groups make of it."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
