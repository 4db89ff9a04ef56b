"""Works on one job while this service holds its lease. A lost Redis or a full stream pauses it and loses nothing."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from redis.exceptions import RedisError

from services.generation.decoding.base import EngineDead
from services.generation.jobs.ordered_writer import OrderedWriter
from services.generation.jobs.progress import JobProgress
from services.generation.jobs.status import State, Status
from services.generation.jobs.store import JobGone, JobStore
from services.generation.metrics import Metrics
from services.generation.pairs.corpus_source import CorpusSource, NoCorpus
from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.plan import ResolvedPlan
from services.generation.pairs.work_item import WorkItemResult
from shared import tracing
from shared.backoff import Backoff, retry
from shared.lease import Lease
from shared.stream import Append, Offer, PairStream

log = logging.getLogger(__name__)
Result = TypeVar("Result")
OnChange = Callable[[], Awaitable[None]]

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 2.0
POLL_S = 0.25  # how often to ask whether the job is cancelled
BATCH = 64  # results recorded in one step
RATE_OVER_S = 30.0
RELEASE_WITHIN_S = 1.0
STREAM_FULL = "the trainer: the pair stream is full"
ANSWERS = {Append.ACCEPTED: True, Append.DUPLICATE: False, Append.FULL: None}


class LeaseLost(Exception):
    """Another service works on the job now."""


@dataclass(frozen=True)
class JobContext:
    """What the jobs of a process share."""

    generator: PairGenerator
    store: JobStore
    stream: PairStream
    passages: CorpusSource
    metrics: Metrics
    dataset: str
    teacher: str


class JobWorker:
    """One job. `on_change` is called after every change of its status."""

    def __init__(
        self, context: JobContext, status: Status, plan: ResolvedPlan, lease: Lease, on_change: OnChange
    ) -> None:
        """`lease` is held, and `status` was read after it was taken."""
        self.status, self._lease, self._on_change = status, lease, on_change
        self._context, self._store = context, context.store
        self._job = Job(plan, status.id, context.dataset, context.teacher)
        self._progress = JobProgress(plan)
        self._hashes: set[str] = set()
        """Of a dry run: the content hashes of its pairs so far."""
        self._cancel_requested, self._asked_at = False, -1e9
        self._pairs_recorded: deque[tuple[float, int]] = deque()

    async def run(self) -> None:
        """Work until the job is finished. Raises `EngineDead`, `LeaseLost` or `JobGone`, in a group; any other error
        fails it."""
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep_lease())
                await self._work()
                keeping.cancel()
        except* (EngineDead, LeaseLost, JobGone):
            raise
        except* Exception as group_of_errors:
            error = first_error(group_of_errors)
            log.exception("job %s failed", self.status.id)
            self.status.error = f"{type(error).__name__}: {error}"
            await self._finish("failed")
        finally:
            await self._release_lease()

    async def _keep_lease(self) -> None:
        await self._lease.keep()
        raise LeaseLost

    async def _release_lease(self) -> None:
        """Let others have the job at once, if Redis answers."""
        try:
            async with asyncio.timeout(RELEASE_WITHIN_S):
                await self._lease.release()
                if self.status.done:
                    await self._store.delete_lease(self.status.id)
        except (RedisError, OSError, TimeoutError):
            log.debug("the lease of job %s is left to expire", self.status.id)

    async def _work(self) -> None:
        await self._load()
        if not self.status.done and not self._progress.done:
            await self._load_corpus()
        writer = OrderedWriter(self._context.generator, self._job, self._progress)
        try:
            while not self.status.done:
                if await self._is_cancelled():
                    await self._finish("cancelled")
                elif self._progress.done:
                    await self._finish(self._progress.outcome)
                elif results := await writer.take(BATCH, POLL_S):
                    await self._record(results)
        finally:
            await writer.stop()

    async def _load(self) -> None:
        """Enter what was recorded before, here or by another service."""

        async def read() -> list[WorkItemResult]:
            return [result async for result in self._store.results(self.status.id)]

        for result in await self._retry_until_up(read):
            self._progress.record(result)
            if self._job.plan.dry_run:
                self._hashes.update(record.pair.content_hash for record in result.pairs.values())
        self.status.update(self._progress)
        self.status.state, self.status.started = "running", self.status.started or time.time()
        await self._save()

    async def _load_corpus(self) -> None:
        """Have the passages that the plan draws from, once the trainer answers; a cancelled job needs none."""
        backoff = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
        while not await self._is_cancelled():
            try:
                corpus = await asyncio.to_thread(self._context.passages.corpus, self._job.plan)
            except NoCorpus as error:
                if self.status.waiting_for is None:
                    self.status.waiting_for = f"the trainer's passages: {error}"
                    await self._save()
                await asyncio.sleep(backoff.next_s())
            else:
                self._job = replace(self._job, corpus=corpus)
                self.status.waiting_for = None
                return

    async def _save(self) -> None:
        await self._retry_until_up(lambda: self._store.save(self.status))
        await self._on_change()

    async def _is_cancelled(self) -> bool:
        """Whether somebody has cancelled the job; asked a few times a second."""
        if time.monotonic() - self._asked_at >= POLL_S:
            self._cancel_requested = await self._retry_until_up(lambda: self._store.cancel_requested(self.status.id))
            self._asked_at = time.monotonic()
        return self._cancel_requested

    async def _record(self, results: Sequence[WorkItemResult]) -> None:
        """Offer the pairs of the next items to the stream, and record what became of them. Raises `LeaseLost`."""
        first, recorded = self._progress.recorded, list[WorkItemResult]()
        # With `pairs` and for queries one by one: what is acceptable depends on what became of the item before.
        plan = self._job.plan
        step = len(results) if plan.pairs is None and not plan.task.writes_queries else 1
        for start in range(0, len(results), step):
            if self._progress.done:
                break
            kept = [self._progress.acceptable(result) for result in results[start : start + step]]
            for answered in await self._offer(kept):
                result = answered.with_few_texts(self._progress.rejected)
                self._progress.record(result)
                recorded.append(result)
        self._update_rate(recorded)
        self.status.waiting_for = None
        self.status.update(self._progress)
        if not await self._retry_until_up(lambda: self._store.record(self.status, first, recorded)):
            # Another service went on meanwhile, or the reply to our own call was lost: begin again with what Redis has.
            raise LeaseLost
        for result in recorded:
            accepted = {} if self._job.plan.dry_run else result.accepted
            self._context.metrics.count_work_item(self.status.task, accepted, result.rejected)
        await self._on_change()

    async def _offer(self, results: Sequence[WorkItemResult]) -> list[WorkItemResult]:
        """The next items' results, once the stream has accepted or refused each of their pairs; a dry run's at once."""
        if self._job.plan.dry_run:
            return [result.without_known(self._hashes) for result in results]
        offers = [
            Offer(record, f"{self.status.id}/{index}/{slot}")
            for index, result in enumerate(results, self._progress.recorded)
            for slot, record in result.pairs.items()
        ]
        with tracing.span("offer", job=self.status.id, pairs=len(offers)):
            answers = iter([ANSWERS[answer] for answer in await self._append(offers)])
        return [result.with_answers(answers) for result in results]

    async def _append(self, offers: Sequence[Offer]) -> list[Append]:
        """Offer until no answer is FULL or the job is cancelled. Repeated offers are answered as the first time."""
        backoff = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
        while True:
            answers = await self._retry_until_up(lambda: self._context.stream.append(offers, tracing.traceparent()))
            if Append.FULL not in answers or await self._is_cancelled():
                return answers
            if self.status.waiting_for != STREAM_FULL:
                self.status.waiting_for = STREAM_FULL
                await self._save()
            await asyncio.sleep(backoff.next_s())

    async def _finish(self, state: State) -> None:
        status = self.status
        status.state, status.finished, status.waiting_for = state, time.time(), None
        accepted, seconds = status.accepted.total(), status.finished - (status.started or status.finished)
        status.pairs_per_second = round(accepted / seconds, 2) if seconds else None
        await self._retry_until_up(lambda: self._store.save(status))
        self._context.metrics.count_job_end(state, seconds)
        tracing.set_attributes(state=state, accepted=accepted)
        counts = (accepted, status.requested, dict(status.rejected))
        log.info("job %s %s: %d of %d pairs, rejected %s", status.id, state, *counts)
        await self._on_change()

    async def _retry_until_up(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `call`, repeated until Redis answers."""

        def on_error(error: Exception) -> None:
            if not (self.status.waiting_for or "").startswith("Redis:"):  # one line an outage
                log.warning("job %s waits for Redis: %s", self.status.id, error)
            self.status.waiting_for = f"Redis: {error}"

        result = await retry(call, (RedisError, OSError), Backoff(FIRST_PAUSE_S, LAST_PAUSE_S), on_error)
        if (self.status.waiting_for or "").startswith("Redis:"):
            self.status.waiting_for = None
        return result

    def _update_rate(self, results: Sequence[WorkItemResult]) -> None:
        """Pairs a second of late."""
        now = time.monotonic()
        self._pairs_recorded.append((now, sum(len(result.pairs) for result in results)))
        while len(self._pairs_recorded) > 2 and now - self._pairs_recorded[0][0] > RATE_OVER_S:
            self._pairs_recorded.popleft()
        (began, _), *later = self._pairs_recorded
        if later and now > began:
            self.status.pairs_per_second = round(sum(pairs for _, pairs in later) / (now - began), 2)


def first_error(error: BaseException) -> BaseException:
    """The first error inside nested exception groups, which task groups make of it."""
    return first_error(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
