"""Runs the dataset's open jobs, whichever service accepted them, oldest first and several at a time.

A dead engine fails no job: the process ends, and its jobs go on with the next process or with another service.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Sequence

from redis.exceptions import RedisError

from services.generation.decoding.base import EngineDead
from services.generation.jobs.status import Status
from services.generation.jobs.store import JobGone
from services.generation.jobs.worker import JobContext, JobWorker, LeaseLost, first_error
from services.generation.pairs.plan import ResolvedPlan
from shared import tracing
from shared.backoff import pause
from shared.errors import first_line
from shared.heartbeat import Heartbeats
from shared.logs import log_context

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
HEARTBEAT_EVERY_S = 2.0
POLL_S = 0.3
CANCEL_WAIT_S = 5.0


class KeyReused(Exception):
    """The caller's key belongs to a job with another plan."""


class JobScheduler:
    """All jobs of this process."""

    def __init__(self, context: JobContext, heartbeats: Heartbeats, *, max_open: int, max_running: int) -> None:
        self._context, self._heartbeats = context, heartbeats
        self.store, self.stream, self.generator = context.store, context.stream, context.generator
        self.passages = context.passages
        self._max_open, self._max_running = max_open, max_running
        context.metrics.backlog_limit.set(context.stream.limit)
        self._owner = uuid.uuid4().hex
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._workers: dict[str, JobWorker] = {}
        self._unreadable: set[str] = set()
        self._changed = asyncio.Condition()
        self._wakeup = asyncio.Event()
        self.open_jobs = 0
        """Of the dataset, when last looked at."""
        self.engine_died = asyncio.Event()

    async def submit(
        self, plan: ResolvedPlan, key: str | None, request_id: str | None = None, warnings: Sequence[str] = ()
    ) -> Status:
        """A durable, queued job; the same one for the same key. Raises `TooManyJobs`, `KeyReused` or redis errors."""
        status = Status("", task=plan.task.task_name, preset=plan.preset, requested=plan.pairs_requested)
        status.dry_run, status.warnings = plan.dry_run, list(warnings)
        status.request_id, status.traceparent = request_id, tracing.traceparent()
        status.id, new = await self.store.create(plan, status, key, self._max_open)
        if not new and not await self._has_plan(status.id, plan):
            raise KeyReused
        self._wakeup.set()
        return await self.status(status.id) or status

    async def _has_plan(self, id_: str, plan: ResolvedPlan) -> bool:
        """Whether a job was asked for like this, however far the dataset's passages reached then."""
        stored = await self.store.plan(id_)
        return stored is not None and plan.model_copy(update={"last_passage": stored.last_passage}) == stored

    async def status(self, id_: str) -> Status | None:
        """A job of this or any other service; None if there is none of this id."""
        worker = self._workers.get(id_)
        try:
            return await self.store.status(id_)
        except (RedisError, OSError):
            if worker is None:
                raise
            return worker.status  # as far as this service knows; it says that it waits for Redis

    async def cancel(self, status: Status) -> None:
        """Stop a job. Pairs that were accepted stay. Returns once it has stopped, or after a few seconds."""
        if status.done:
            return
        await self.store.request_cancel(status.id)
        self._wakeup.set()
        await self.wait(status.id, CANCEL_WAIT_S)

    async def resume(self, status: Status) -> Status:
        """Queue a cancelled job again, with what it has. Raises `TooManyJobs` or redis errors."""
        await self.store.reopen(status.id, self._max_open)
        self._wakeup.set()
        return await self.status(status.id) or status

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

    async def run(self) -> None:
        """Run what is open, for ever."""
        while True:
            try:
                ids = await self.store.open_ids()
                self.open_jobs = len(ids)
                for id_ in ids:
                    if len(self._tasks) < self._max_running and not (id_ in self._tasks or id_ in self._unreadable):
                        await self._start(id_)
            except (RedisError, OSError) as error:
                log.debug("can't look for jobs: %s", error)
            await pause(self._wakeup, LOOK_EVERY_S)
            self._wakeup.clear()

    async def post_heartbeats(self) -> None:
        """Post, for ever, whether we generate: a trainer on the same cores waits for that."""
        metrics = self._context.metrics
        while True:
            try:
                await self._heartbeats.post("generation", {"running_jobs": self.open_jobs})
                metrics.backlog.set(await self.stream.backlog())
                metrics.redis_up.set(1)
            except (RedisError, OSError):
                metrics.redis_up.set(0)
            metrics.open_jobs.set(self.open_jobs)
            await self.next_change(HEARTBEAT_EVERY_S)
            await asyncio.sleep(0.1)

    async def stop(self, within_s: float) -> None:
        """Leave all jobs where they are: other services, or the next one, go on with them."""
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

    async def _start(self, id_: str) -> None:
        """Work on a job, unless another service does."""
        lease = self.store.lease(id_, self._owner)
        epoch, _ = await lease.try_to_take()
        if not epoch:
            return
        try:
            status, plan = await self.store.status(id_), await self.store.plan(id_)
            if status is None or plan is None:
                raise ValueError("a part of it is missing")
        except (ValueError, KeyError, TypeError) as error:
            # Written by another version, perhaps: it must not keep the others from running.
            self._unreadable.add(id_)
            log.error("job %s can't be read and is left alone: %s", id_, first_line(error))
            await lease.release()
            return
        if status.done:
            await self.store.delete_lease(id_)
            return
        self._workers[id_] = JobWorker(self._context, status, plan, lease, self._notify)
        self._tasks[id_] = asyncio.create_task(self._work(self._workers[id_]), name=f"job-{id_}")
        self._tasks[id_].add_done_callback(lambda _task: self._ended(id_))

    def _ended(self, id_: str) -> None:
        del self._tasks[id_], self._workers[id_]
        self._wakeup.set()

    async def _work(self, worker: JobWorker) -> None:
        job = worker.status
        with log_context(job=job.id, request_id=job.request_id):
            try:
                with tracing.span("job", parent=job.traceparent, job=job.id, task=job.task):
                    await worker.run()
            except* EngineDead as group:
                log.error("job %s waits for another engine: %s", job.id, first_error(group))
                self.engine_died.set()
            except* JobGone:
                log.error("job %s is gone from Redis, which was emptied or restored: its work ends", job.id)
            except* LeaseLost:
                log.warning("job %s is left to whoever holds its lease", job.id)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
