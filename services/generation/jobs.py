"""Jobs: a plan on its way, kept in Redis so that a restart of this service or of Redis continues where it was.

    <dataset>:job:<id>          hash: plan, state, created, finished, counts, fault
    <dataset>:job:<id>:units    hash: unit number -> its pairs and rejections, written once
    <dataset>:jobs:open         set of the ids that are not finished
    <dataset>:jobs:all          sorted set of all ids by the time they were created

A unit is first offered to the pair stream and then recorded. A crash in between makes the unit again: the stream knows
the owner of every pair, so the pairs are neither doubled nor counted twice.
"""

import hashlib
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError
from redis.asyncio import Redis

from services.generation.generator import Plan

log = logging.getLogger(__name__)

State = Literal["queued", "running", "complete", "exhausted", "failed", "cancelled"]
FINISHED: frozenset[str] = frozenset({"complete", "exhausted", "failed", "cancelled"})
KEEP_S = 7 * 24 * 3600
PAGE = 500

# KEYS: job, open jobs, all jobs.  ARGV: plan, id, created, then the other fields and their values.
# One step, so that a repeated request (or a reply that was lost) finds the whole job or none.
CREATE = """
if redis.call('HSETNX', KEYS[1], 'plan', ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2])
return 1
"""


@dataclass
class Job:
    """A job as this process knows it."""

    id: str
    plan: Plan
    requested: int
    """Pairs asked for."""
    state: State = "queued"
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    units_done: set[int] = field(default_factory=set)
    accepted: Counter[str] = field(default_factory=Counter)
    """Pairs in the stream, by label."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Samples thrown away, by reason."""
    latest: dict[str, Any] | None = None
    """One of the newest accepted pairs, the labels in turn, for whoever watches."""
    waiting_for: str | None = None
    """Why a running job makes no progress just now."""
    fault: str | None = None
    cancel_asked: bool = False

    @property
    def done(self) -> bool:
        """Nothing more will be written."""
        return self.state in FINISHED

    def count(self, number: int, record: dict[str, Any]) -> None:
        """Add a recorded unit."""
        self.units_done.add(number)
        self.accepted.update(Counter(pair["label"] for pair in record["pairs"]))
        self.rejected.update(record["rejected"])
        if record["pairs"]:
            self.latest = record["pairs"][len(self.units_done) % len(record["pairs"])]

    def view(self) -> dict[str, Any]:
        """The job resource, as the API shows it."""
        accepted, rejected = self.accepted.total(), self.rejected.total()
        seconds = (self.finished or time.time()) - self.started if self.started else 0.0
        return {
            "id": self.id,
            "state": self.state,
            "task": self.plan.task,
            "requested": self.requested,
            "accepted": accepted,
            "accepted_by_label": dict(sorted(self.accepted.items())),
            "rejected": rejected,
            "rejected_by_reason": dict(sorted(self.rejected.items())),
            "inputs": self.plan.units,
            "inputs_done": len(self.units_done),
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
            "seconds": round(seconds, 3),
            "pairs_per_second": round(accepted / seconds, 2) if seconds else None,
            "waiting_for": self.waiting_for,
            "fault": self.fault,
        }


class JobStore:
    """Jobs in Redis. Every call may raise redis errors; every call may be repeated."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self._redis = redis
        self._prefix = f"pairwright:{{{dataset}}}:job"
        self._open, self._all = f"{self._prefix}s:open", f"{self._prefix}s:all"
        self._create = redis.register_script(CREATE)

    async def create(self, plan: Plan, requested: int, key: str | None) -> tuple[Job, bool]:
        """A job, durable when this returns, and whether it is new.

        With a `key` of the caller's, the job of an earlier call with that key is found instead of made again.
        """
        id_ = uuid.uuid4().hex if key is None else hashlib.sha256(key.encode()).hexdigest()[:32]
        job = Job(id_, plan, requested)
        fields = [part for field in self._fields(job).items() for part in field]
        keys = [self._key(id_), self._open, self._all]
        new = await self._create(keys=keys, args=[plan.model_dump_json(), id_, job.created, *fields])
        return job, bool(new)

    async def newest(self, count: int) -> list[dict[str, Any]]:
        """A line each for the newest jobs; their counts take a look at the job itself."""
        await self._redis.zremrangebyscore(self._all, "-inf", time.time() - KEEP_S)
        ids: Any = await self._redis.zrevrange(self._all, 0, count - 1)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for id_ in ids:
                pipeline.hmget(self._key(id_), ["state", "requested", "created", "finished", "fault"])
            rows = await pipeline.execute()
        return [
            {
                "id": id_,
                "state": state,
                "requested": int(requested),
                "created": float(created),
                "finished": _number(finished),
                "fault": fault or None,
            }
            for id_, (state, requested, created, finished, fault) in zip(ids, rows, strict=True)
            if state is not None
        ]

    async def save(self, job: Job) -> None:
        """Write the state and the counts; a finished job leaves the open set and fades after a week."""
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.hset(self._key(job.id), mapping=self._fields(job))
            if job.done:
                transaction.srem(self._open, job.id)
                transaction.expire(self._key(job.id), KEEP_S)
                transaction.expire(self._units(job.id), KEEP_S)
            await transaction.execute()

    async def record(self, job: Job, number: int, record: dict[str, Any]) -> None:
        """Keep what became of a unit. The first record stays."""
        await self._redis.hsetnx(self._units(job.id), str(number), json.dumps(record))

    async def open_jobs(self) -> list[Job]:
        """Jobs that were not finished, oldest first, with their recorded units counted."""
        jobs = []
        for id_ in await self._redis.smembers(self._open):
            try:
                job = await self.load(str(id_))
            except (ValidationError, KeyError, ValueError) as error:
                # Written by another version, perhaps: it must not keep this one from starting.
                log.error("job %s can't be read and is left alone: %s", id_, str(error).splitlines()[0])
                continue
            if job is not None:
                jobs.append(job)
        return sorted(jobs, key=lambda job: job.created)

    async def load(self, id_: str) -> Job | None:
        """A job by its id; None if there is none (any more)."""
        fields: Any = await self._redis.hgetall(self._key(id_))
        if not fields:
            return None
        job = Job(
            id_,
            Plan.model_validate_json(fields["plan"]),
            int(fields["requested"]),
            state=fields["state"],
            created=float(fields["created"]),
            started=_number(fields["started"]),
            finished=_number(fields["finished"]),
            fault=fields["fault"] or None,
        )
        async for number, record in self.records(job):
            job.count(number, record)
        return job

    async def records(self, job: Job) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """The recorded units, in order of their number."""
        for first in range(0, job.plan.units, PAGE):
            numbers = range(first, min(first + PAGE, job.plan.units))
            values = await self._redis.hmget(self._units(job.id), [str(number) for number in numbers])
            for number, value in zip(numbers, values, strict=True):
                if value is not None:
                    yield number, json.loads(value)

    def _key(self, id_: str) -> str:
        return f"{self._prefix}:{id_}"

    def _units(self, id_: str) -> str:
        return f"{self._prefix}:{id_}:units"

    @staticmethod
    def _fields(job: Job) -> Mapping[Any, Any]:
        return {
            "plan": job.plan.model_dump_json(),
            "requested": str(job.requested),
            "state": job.state,
            "created": repr(job.created),
            "started": repr(job.started) if job.started else "",
            "finished": repr(job.finished) if job.finished else "",
            "fault": job.fault or "",
        }


def _number(text: str) -> float | None:
    return float(text) if text else None
