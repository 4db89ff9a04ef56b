"""One job on one generation service: workers write units, and whoever leads the job records them in order.

Several services may run the same job: they share its units by claims, and one of them leads. A lost Redis or a full
stream pauses a job, it never fails one and loses nothing.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from redis.exceptions import RedisError

from services.generation.jobs.progress import JobProgress
from services.generation.jobs.records import Record, draft_record, entered, without_surplus, written_of
from services.generation.jobs.store import JobStore, Status
from services.generation.pairs.generator import Job, PairGenerator
from shared import tracing
from shared.pairs import PairRecord, Provenance
from shared.stream import Append, Offer, PairStream

log = logging.getLogger(__name__)

Result = TypeVar("Result")

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 2.0
POLL_S = 0.25
"""How often to look for what other services have done."""
WINDOW = 4096
"""Units that may be written ahead of the last recorded one."""
BATCH = 64
"""Units recorded in one step."""
RATE_OVER_S = 30.0


class Counts(Protocol):
    """Metrics of what is recorded."""

    def recorded(self, task: str, record: Record) -> None:
        """A unit was entered."""

    def ended(self, state: str, seconds: float) -> None:
        """A job ended here."""


class JobWorker:
    """A job that runs here. `changed` is called after every change of its status."""

    def __init__(
        self,
        status: Status,
        job: Job,
        *,
        who: str,
        generator: PairGenerator,
        store: JobStore,
        stream: PairStream,
        dataset: str,
        teacher: str,
        counts: Counts,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self.status, self._job, self._who = status, job, who
        self._generator, self._store, self._stream = generator, store, stream
        self._dataset, self._teacher, self._counts, self._changed = dataset, teacher, counts, changed
        self._ledger = JobProgress(job.plan)
        self._claimed: deque[int] = deque()
        self._held: set[int] = set()
        """Units claimed here and not yet written."""
        self._drafts: dict[int, Record] = {}
        """Units written here and not yet recorded."""
        self._claiming = asyncio.Lock()
        self._stir = asyncio.Event()
        """Something may have become possible: a unit to record, or to claim."""
        self._led_at = self._asked_at = -1e9
        self._cancelled = False
        self._pace: deque[tuple[float, int]] = deque()

    async def run(self) -> None:
        """Work until the job is finished, here or elsewhere. Raises what the engine raises, in a group."""
        try:
            await self._catch_up()
            async with asyncio.TaskGroup() as group:
                writers = self._generator.units_in_flight(self._job)
                helpers = [group.create_task(self._write()) for _ in range(writers)]
                helpers.append(group.create_task(self._renew()))
                await self._record_until_finished()
                for helper in helpers:
                    helper.cancel()
        finally:
            await self._give_back()

    async def fail(self, fault: str) -> None:
        """End the job as failed."""
        self.status.fault = fault
        await self._finish("failed")

    # ---- writing units

    async def _write(self) -> None:
        while True:
            index = await self._next_claim()
            unit = await self._generator.write(self._job, self._ledger.assignment(index))
            draft = draft_record(unit)
            await self._outlast("Redis", lambda i=index, d=draft: self._store.draft(self.status.id, i, d))  # type: ignore[misc]
            self._held.discard(index)
            self._drafts[index] = draft
            self._stir.set()

    async def _next_claim(self) -> int:
        """A unit to write; waits until there is one."""
        async with self._claiming:
            while not self._claimed:
                units = await self._outlast("Redis", self._claim)
                self._held.update(units)
                # The next wave is known only to those that have seen all records of this one.
                self._claimed.extend(unit for unit in units if unit >= self._ledger.recorded)
                if not units:
                    await asyncio.sleep(POLL_S if self._ledger.recorded < self._ledger.total else POLL_S / 5)
            return self._claimed.popleft()

    async def _claim(self) -> list[int]:
        count = max(1, self._generator.units_in_flight(self._job) // 4)
        return await self._store.claim(self.status.id, self._ledger.total, count, WINDOW)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._store.lease_s / 3)
            await self._outlast("Redis", lambda: self._store.renew(self.status.id, sorted(self._held)))

    async def _give_back(self) -> None:
        """Let others have what was claimed here, at once if Redis answers."""
        try:
            async with asyncio.timeout(1):
                await self._store.release(self.status.id, self._who, sorted(self._held))
        except (RedisError, OSError, TimeoutError):
            log.debug("the claims of job %s end by themselves", self.status.id)

    # ---- recording

    async def _record_until_finished(self) -> None:
        while True:
            if await self._leads():
                if await self._shall_end():
                    await self._finish("cancelled")
                elif self._ledger.done:
                    await self._finish(self._ledger.outcome)
                elif await self._record_ready():
                    continue  # there may be more already
            else:
                await self._follow()
            if self.status.done:
                return
            await self._stirred()

    async def _leads(self) -> bool:
        """Whether this service records. Taking over begins with what the one before has recorded."""
        if time.monotonic() - self._led_at < self._store.lease_s / 3:
            return True
        led = time.monotonic() - self._led_at < self._store.lease_s
        if not await self._outlast("Redis", lambda: self._store.lead(self.status.id, self._who)):
            self._led_at = -1e9
            return False
        self._led_at = time.monotonic()
        if not led:
            await self._follow()
            if not self.status.done and self.status.state == "queued":
                self.status.state, self.status.started = "running", self.status.started or time.time()
                await self._outlast("Redis", lambda: self._store.save(self.status))
                await self._changed()
        return True

    async def _shall_end(self) -> bool:
        """Whether somebody has cancelled the job; asked a few times a second."""
        if time.monotonic() - self._asked_at >= POLL_S:
            self._cancelled = await self._outlast("Redis", lambda: self._store.cancel_asked(self.status.id))
            self._asked_at = time.monotonic()
        return self._cancelled

    async def _follow(self) -> None:
        """See what another service has done with the job."""
        status = await self._outlast("Redis", lambda: self._store.status(self.status.id))
        if status is None:  # cancelled, finished and forgotten
            self.status.state = "cancelled"
            return
        self.status = status
        if not status.done:
            await self._catch_up()
        await self._changed()

    async def _catch_up(self) -> None:
        """Enter the records that are there."""

        async def read() -> list[Record]:
            return [record async for record in self._store.records(self.status.id, self._ledger.recorded)]

        for record in await self._outlast("Redis", read):
            self._drafts.pop(self._ledger.recorded, None)
            self._ledger.record(record)
        self.status.enter(self._ledger)

    async def _record_ready(self) -> bool:
        """Offer and record the written units whose turn it is; False if there is none."""
        drafts = await self._ready()
        if not drafts:
            return False
        first, plan = self._ledger.recorded, self._job.plan
        records: list[Record] = []
        if plan.pairs is None:
            records = await self._offer(first, drafts)
            for record in records:
                self._ledger.record(record)
        else:
            # One by one: how much room a label has left depends on what became of the unit before.
            for draft in drafts:
                record = (await self._offer(self._ledger.recorded, [without_surplus(draft, self._ledger.room)]))[0]
                records.append(record)
                self._ledger.record(record)
                if self._ledger.done:
                    break
        self._note_pace(records)
        self.status.enter(self._ledger)
        if not await self._outlast("Redis", lambda: self._store.record(self.status, first, records)):
            # Another service led meanwhile, or the reply to our own call was lost: what Redis has counts.
            self._ledger = JobProgress(plan)
            await self._catch_up()
            return True
        for number, record in enumerate(records):
            self._drafts.pop(first + number, None)
            self._counts.recorded(self.status.task, record)
        await self._changed()
        return True

    async def _ready(self) -> list[Record]:
        """The next units in order, as far as they are written, here or elsewhere."""
        first = self._ledger.recorded
        wanted = range(first, min(first + BATCH, self._ledger.total))
        if wanted and first not in self._drafts and first not in self._held:
            others = [index for index in wanted if index not in self._drafts and index not in self._held]
            self._drafts |= await self._outlast("Redis", lambda: self._store.drafts(self.status.id, others))
        ready = []
        for index in wanted:
            if index not in self._drafts:
                break
            ready.append(self._drafts[index])
        return ready

    async def _offer(self, first: int, drafts: Sequence[Record]) -> list[Record]:
        """The units' records, once the stream has taken or refused each of their pairs."""
        offers = [
            Offer(self._pair_record(written), f"{self.status.id}/{first + place}/{written.slot}")
            for place, draft in enumerate(drafts)
            for written in written_of(draft)
        ]
        with tracing.span("offer", job=self.status.id, pairs=len(offers)):
            answers = iter(await self._append(offers))
        return [entered(draft, [next(answers) for _ in draft["pairs"]]) for draft in drafts]

    async def _append(self, offers: Sequence[Offer]) -> list[Append]:
        """Offer until no answer is FULL or the job shall end. Repeated offers are answered as the first time."""
        pause = FIRST_PAUSE_S
        while True:
            answers = await self._outlast("Redis", lambda: self._stream.append(offers, tracing.traceparent()))
            if Append.FULL not in answers:
                return answers
            await self._wait_for("the trainer: the pair stream is full")
            if await self._shall_end():
                return answers
            await asyncio.sleep(pause)
            await self._leads()
            pause = min(pause * 2, LAST_PAUSE_S)

    def _pair_record(self, written: Any) -> PairRecord:
        provenance = Provenance(
            dataset=self._dataset,
            task=self.status.task,
            label=written.label,
            job=self.status.id,
            teacher=self._teacher,
            seed=written.seed,
        )
        return PairRecord(pair=written.pair, provenance=provenance)

    async def _finish(self, state: Any) -> None:
        status = self.status
        status.state, status.finished, status.waiting_for = state, time.time(), None
        accepted, seconds = status.accepted.total(), status.finished - (status.started or status.finished)
        status.pairs_per_second = round(accepted / seconds, 2) if seconds else None
        await self._outlast("Redis", lambda: self._store.save(status))
        self._counts.ended(state, seconds)
        tracing.set_attributes(state=state, accepted=accepted)
        log.info(
            "job %s %s: %d of %d pairs, rejected %s",
            status.id,
            state,
            accepted,
            status.requested,
            dict(status.rejected),
        )
        await self._changed()

    # ---- waiting

    async def _stirred(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._stir.wait()
                self._stir.clear()

    async def _wait_for(self, what: str | None) -> None:
        """Tell why there is no progress; None: there is some again."""
        if self.status.waiting_for != what:
            self.status.waiting_for = what
            try:
                await self._store.save(self.status)
            except (RedisError, OSError):
                log.debug("the reason can't be told now", exc_info=True)
            await self._changed()

    async def _outlast(self, what: str, call: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `call`, repeated until Redis answers."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                result = await call()
            except (RedisError, OSError) as error:
                if not (self.status.waiting_for or "").startswith(what):  # one line an outage, not one a writer
                    log.warning("job %s waits for %s: %s", self.status.id, what, error)
                self.status.waiting_for = f"{what}: {error}"
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(pause * 2, LAST_PAUSE_S)
            else:
                if self.status.waiting_for and self.status.waiting_for.startswith(f"{what}:"):
                    self.status.waiting_for = None
                return result

    def _note_pace(self, records: Sequence[Record]) -> None:
        """Pairs a second of late."""
        now = time.monotonic()
        self._pace.append((now, sum(len(record["pairs"]) for record in records)))
        while len(self._pace) > 2 and now - self._pace[0][0] > RATE_OVER_S:
            self._pace.popleft()
        (began, _), *later = self._pace
        if later and now > began:
            self.status.pairs_per_second = round(sum(pairs for _, pairs in later) / (now - began), 2)
        self.status.waiting_for = None
