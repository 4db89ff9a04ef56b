"""Jobs in Redis: durable, shared by every generation service of a dataset, each unit recorded once and in order.

    <dataset>:job:<id>            hash: state, counts, times, fault
    <dataset>:job:<id>:plan       the plan, with its task spec written out
    <dataset>:job:<id>:records    list: what became of each unit, in order; grows only by `record`
    <dataset>:job:<id>:drafts     hash: units that are written and wait to be recorded in their turn
    <dataset>:job:<id>:claims     sorted set: units being written, by when the claim ends (ms)
    <dataset>:job:<id>:lead       who records, until when
    <dataset>:jobs:open           set of the ids that are not finished
    <dataset>:jobs:all            sorted set of all ids by the time they were created

Any service may claim units and write them; the one that leads a job offers their pairs to the stream and records them.
A claim or a lead that isn't renewed ends by itself, so the work of a dead service goes to the others. Should two lead
for a moment, nothing is counted twice: the stream knows the owner of every pair, and a record has one place.
"""

import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from redis.asyncio import Redis

from services.generation.jobs import lua
from services.generation.jobs.progress import JobProgress
from services.generation.jobs.records import Record
from services.generation.pairs.plan import Plan
from shared.redis import key

State = Literal["queued", "running", "complete", "exhausted", "failed", "cancelled"]
FINISHED: frozenset[str] = frozenset({"complete", "exhausted", "failed", "cancelled"})
WHILE_OPEN = ("drafts", "claims", "lead", "next", "cancel")
"""The keys of a job that only its being worked on needs."""
PAGE = 500
LEASE_S = 10.0
"""How long a claim or a lead lasts without being renewed: what a dead service's work waits for another."""


class TooManyJobs(Exception):
    """As many jobs are open as may be."""


@dataclass
class Status:
    """A job as everybody sees it."""

    id: str
    state: State = "queued"
    task: str = ""
    preset: str = "default"
    requested: int = 0
    """Pairs asked for."""
    accepted: Counter[str] = field(default_factory=Counter)
    """Pairs in the stream, by label."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Samples thrown away, by reason."""
    samples: int = 0
    units: int = 0
    """First sentences known so far."""
    recorded: int = 0
    """First sentences that are done."""
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    pairs_per_second: float | None = None
    """Of late, while it runs; over all of the job, once it has ended."""
    waiting_for: str | None = None
    """Why a running job makes no progress just now."""
    fault: str | None = None
    request_id: str | None = None
    """Of the request that made it."""
    traceparent: str | None = None
    """The span of that request, while traces are on."""

    @property
    def done(self) -> bool:
        """Nothing more will be written."""
        return self.state in FINISHED

    def enter(self, ledger: JobProgress) -> None:
        """Take over the ledger's counts."""
        self.accepted, self.rejected, self.samples = ledger.accepted, ledger.rejected, ledger.samples
        self.units, self.recorded = ledger.total, ledger.recorded

    def view(self) -> dict[str, Any]:
        """The job resource, as the API shows it."""
        accepted = self.accepted.total()
        rate = self.pairs_per_second
        running = self.state == "running" and rate
        return {
            "id": self.id,
            "state": self.state,
            "task": self.task,
            "preset": self.preset,
            "requested": self.requested,
            "accepted": accepted,
            "accepted_by_label": dict(sorted(self.accepted.items())),
            "rejected": self.rejected.total(),
            "rejected_by_reason": dict(sorted(self.rejected.items())),
            "samples": self.samples,
            "units": self.units,
            "units_done": self.recorded,
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
            "seconds": round((self.finished or time.time()) - self.started, 3) if self.started else 0.0,
            "pairs_per_second": rate,
            "eta_seconds": round((self.requested - accepted) / rate, 1) if running and rate else None,
            "waiting_for": self.waiting_for,
            "fault": self.fault,
        }

    def fields(self) -> dict[str, str]:
        """As it is kept."""
        kept = {name: value for name, value in vars(self).items() if name != "id"}
        return {name: json.dumps(value) for name, value in kept.items()}


def status_from(id_: str, fields: Mapping[str, str]) -> Status:
    """The status of kept fields. Raises ValueError, KeyError or TypeError for what another version wrote."""
    known = {name: json.loads(fields[name]) for name in vars(Status("")) if name != "id" and name in fields}
    status = Status(id_, **known)
    status.accepted, status.rejected = Counter(status.accepted), Counter(status.rejected)
    return status


class JobStore:
    """Jobs in Redis. Every call may raise redis errors; every call may be repeated."""

    def __init__(self, redis: Redis, dataset: str, *, keep_s: float, lease_s: float = LEASE_S) -> None:
        self._redis = redis
        self._dataset = dataset
        self._open, self._all = key(dataset, "jobs", "open"), key(dataset, "jobs", "all")
        self._keep_s, self.lease_s = keep_s, lease_s
        scripts = {name: redis.register_script(text) for name, text in lua.ALL.items()}
        self._create, self._claim, self._renew = scripts["create"], scripts["claim"], scripts["renew"]
        self._lead, self._release = scripts["lead"], scripts["release"]
        self._save, self._record = scripts["save"], scripts["record"]

    # ---- whole jobs

    async def create(self, plan: Plan, status: Status, client_key: str | None, max_open: int) -> tuple[str, bool]:
        """Make a job, durable when this returns. Returns its id and whether it is new.

        With a `client_key`, the job of an earlier call with that key is found instead of made again.
        Raises `TooManyJobs`.
        """
        id_ = uuid.uuid4().hex if client_key is None else hashlib.sha256(client_key.encode()).hexdigest()[:32]
        fields = [part for item in status.fields().items() for part in item]
        keys = [self._key(id_), self._key(id_, "plan"), self._open, self._all]
        new = await self._create(keys=keys, args=[plan.model_dump_json(), id_, status.created, max_open, *fields])
        if int(new) < 0:
            raise TooManyJobs
        return id_, bool(new)

    async def status(self, id_: str) -> Status | None:
        """A job by its id; None if there is none (any more)."""
        fields: Any = await self._redis.hgetall(self._key(id_))
        return status_from(id_, fields) if "state" in fields else None

    async def plan(self, id_: str) -> Plan | None:
        """What a job shall write. Raises ValueError for what another version wrote."""
        text = await self._redis.get(self._key(id_, "plan"))
        return Plan.model_validate_json(text) if text is not None else None

    async def open_ids(self) -> list[str]:
        """Jobs that are not finished, oldest first."""
        ids = {str(id_) for id_ in await self._redis.smembers(self._open)}
        scores = await self._redis.zmscore(self._all, sorted(ids)) if ids else []
        return [id_ for _, id_ in sorted((score or 0.0, id_) for id_, score in zip(sorted(ids), scores, strict=True))]

    async def newest(self, count: int) -> list[dict[str, Any]]:
        """The newest jobs, without their pairs."""
        await self._redis.zremrangebyscore(self._all, "-inf", time.time() - self._keep_s)
        ids: Any = await self._redis.zrevrange(self._all, 0, count - 1)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for id_ in ids:
                pipeline.hgetall(self._key(id_))
            rows: Any = await pipeline.execute()
        return [status_from(id_, row).view() for id_, row in zip(ids, rows, strict=True) if "state" in row]

    async def ask_to_cancel(self, id_: str) -> None:
        """Whoever leads the job ends it."""
        await self._redis.set(self._key(id_, "cancel"), "1", ex=int(self._keep_s))

    async def cancel_asked(self, id_: str) -> bool:
        """Whether somebody wants the job to end."""
        return bool(await self._redis.exists(self._key(id_, "cancel")))

    async def save(self, status: Status) -> None:
        """Write the status, unless the job is finished; one that finishes leaves the open set and is forgotten after
        its time."""
        parts = ("plan", "records", *WHILE_OPEN)
        keys = [self._key(status.id), self._open, *(self._key(status.id, part) for part in parts)]
        keep_s = max(1, int(self._keep_s)) if status.done else 0
        fields = [part for item in status.fields().items() for part in item]
        await self._save(keys=keys, args=[status.id, keep_s, *fields])

    # ---- units

    async def claim(self, id_: str, total: int, count: int, window: int) -> list[int]:
        """Up to `count` units below `total` that nobody writes, at most `window` ahead of the records."""
        keys = [self._key(id_, part) for part in ("claims", "drafts", "records", "next")]
        return [int(index) for index in await self._claim(keys=keys, args=[total, count, window, self._lease_ms])]

    async def renew(self, id_: str, units: Sequence[int]) -> None:
        """Go on holding claims."""
        if units:
            await self._renew(keys=[self._key(id_, "claims")], args=[self._lease_ms, *units])

    async def release(self, id_: str, who: str, units: Sequence[int]) -> None:
        """Give claims and the lead back, so that others need not wait for them to end."""
        await self._release(keys=[self._key(id_, "claims"), self._key(id_, "lead")], args=[who, *units])

    async def draft(self, id_: str, index: int, draft: Record) -> None:
        """A unit is written: keep it until its turn comes."""
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.hset(self._key(id_, "drafts"), str(index), json.dumps(draft))
            transaction.zrem(self._key(id_, "claims"), str(index))
            await transaction.execute()

    async def drafts(self, id_: str, indices: Sequence[int]) -> dict[int, Record]:
        """Those of the units that are written."""
        if not indices:
            return {}
        values = await self._redis.hmget(self._key(id_, "drafts"), [str(index) for index in indices])
        return {index: json.loads(value) for index, value in zip(indices, values, strict=True) if value is not None}

    async def lead(self, id_: str, who: str) -> bool:
        """Become or stay the one who records; False while somebody else is."""
        return bool(await self._lead(keys=[self._key(id_, "lead")], args=[who, self._lease_ms]))

    async def record(self, status: Status, first: int, records: Sequence[Record]) -> bool:
        """Enter units `first` and following, with the status after them. False, and nothing done, if others have
        entered units meanwhile."""
        keys = [self._key(status.id), self._key(status.id, "records"), self._key(status.id, "drafts")]
        fields = [part for item in status.fields().items() for part in item]
        arguments: list[str | int] = [first, len(records), *(json.dumps(record) for record in records), *fields]
        return bool(await self._record(keys=keys, args=arguments))

    async def records(self, id_: str, first: int = 0) -> AsyncIterator[Record]:
        """What became of the units, from `first` on, in order."""
        while True:
            page: Any = await self._redis.lrange(self._key(id_, "records"), first, first + PAGE - 1)
            for text in page:
                yield json.loads(text)
            first += len(page)
            if len(page) < PAGE:
                return

    @property
    def _lease_ms(self) -> int:
        return int(self.lease_s * 1000)

    def _key(self, id_: str, part: str = "") -> str:
        return key(self._dataset, "job", id_, part) if part else key(self._dataset, "job", id_)
