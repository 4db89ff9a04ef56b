"""Jobs in Redis: durable, each worked on by one generation service of the dataset, each result recorded once, in order.

    <dataset>:job:<id>            hash: state, counts, times, error
    <dataset>:job:<id>:plan       the resolved plan
    <dataset>:job:<id>:records    list: the result of each work item, in order; grows only by `record`
    <dataset>:job:<id>:cancel     there once somebody wants the job to end
    <dataset>:job:<id>:lease      which service works on it (shared.lease), and beside it :epoch
    <dataset>:jobs:open           set of the ids that are not finished
    <dataset>:jobs:all            sorted set of all ids by the time they were created

Should two services work on a job for a moment, nothing is counted twice: the stream knows the owner of every pair, and
a result has one place.
"""

import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.asyncio import Redis

from services.generation.jobs.status import Status
from services.generation.pairs.plan import ResolvedPlan
from services.generation.pairs.work_item import WorkItemResult
from shared.lease import LEASE_S, Lease
from shared.redis import key

LEASE_KEYS = ("lease", "epoch")
OLD_KEYS = ("drafts", "claims", "lead", "next")  # what a job of 0.1 may have left  # retired: remove in 0.3
WHILE_OPEN = ("cancel", *LEASE_KEYS, *OLD_KEYS)
"""The keys of a job that only its being worked on needs."""
PAGE = 500

# KEYS: job, plan, open jobs, all jobs.  ARGV: plan, id, created, max open, then fields and values.
# One step, so that a repeated request (or a reply that was lost) finds the whole job or none. -1: too many are open.
CREATE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[4]) then return -1 end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[2])
return 1
"""

# A finished job stays as it is: a call that was given up while it was on its way may arrive after the job's end.
# One that is gone (-1) was deleted with its plan by somebody else: nothing may bring back a part of it.
UNLESS_FINISHED = """
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local finished = {['"complete"'] = 1, ['"exhausted"'] = 1, ['"failed"'] = 1, ['"cancelled"'] = 1}
if finished[redis.call('HGET', KEYS[1], 'state') or ''] then return 0 end
"""

# KEYS: job, open jobs, plan, results, then what only an open job needs.
# ARGV: id, seconds to keep it or 0 while it is open, then fields and values.
SAVE = f"""{UNLESS_FINISHED}
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if ARGV[2] ~= '0' then
  redis.call('SREM', KEYS[2], ARGV[1])
  for i = 5, #KEYS do redis.call('DEL', KEYS[i]) end
  for _, i in ipairs({{1, 3, 4}}) do redis.call('EXPIRE', KEYS[i], ARGV[2]) end
end
return 1
"""

# KEYS: job, results.  ARGV: number of the first result, how many, the results, then fields and values of the job.
# The place of a result is its number: an owner that was thought dead finds the place taken.
RECORD = f"""{UNLESS_FINISHED}
local first, count = tonumber(ARGV[1]), tonumber(ARGV[2])
if redis.call('LLEN', KEYS[2]) ~= first then return 0 end
for i = 1, count do redis.call('RPUSH', KEYS[2], ARGV[2 + i]) end
redis.call('HSET', KEYS[1], unpack(ARGV, 3 + count))
return 1
"""

# KEYS: job, plan, results, open jobs, cancel.  ARGV: id, max open. 0: it isn't cancelled, or its plan is gone.
REOPEN = """
if redis.call('HGET', KEYS[1], 'state') ~= '"cancelled"' or redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
if redis.call('SCARD', KEYS[4]) >= tonumber(ARGV[2]) then return -1 end
for i = 1, 3 do redis.call('PERSIST', KEYS[i]) end
redis.call('DEL', KEYS[5])
redis.call('HSET', KEYS[1], 'state', '"queued"', 'finished', 'null', 'pairs_per_second', 'null')
redis.call('SADD', KEYS[4], ARGV[1])
return 1
"""


class TooManyJobs(Exception):
    """As many jobs are open as may be."""


class JobGone(Exception):
    """Redis has no such job any more: somebody has emptied it, or it was restored from an older copy."""


class JobStore:
    """Jobs in Redis. Every call may raise redis errors; every call may be repeated."""

    def __init__(self, redis: Redis, dataset: str, *, keep_s: float, lease_s: float = LEASE_S) -> None:
        self._redis, self._dataset = redis, dataset
        self._open, self._all = key(dataset, "jobs", "open"), key(dataset, "jobs", "all")
        self._keep_s, self._lease_s = max(1, int(keep_s)), lease_s
        self._create, self._save, self._record = map(redis.register_script, (CREATE, SAVE, RECORD))
        self._reopen = redis.register_script(REOPEN)

    async def create(
        self, plan: ResolvedPlan, status: Status, client_key: str | None, max_open: int
    ) -> tuple[str, bool]:
        """Make a job, durable when this returns, unless an earlier call with this `client_key` has made it.

        Returns its id and whether it is new. Raises `TooManyJobs`.
        """
        id_ = uuid.uuid4().hex if client_key is None else hashlib.sha256(client_key.encode()).hexdigest()[:32]
        keys = [self._key(id_), self._key(id_, "plan"), self._open, self._all]
        arguments: list[str | float] = [plan.model_dump_json(), id_, status.created, max_open, *status.fields()]
        new = int(await self._create(keys=keys, args=arguments))
        if new < 0:
            raise TooManyJobs
        return id_, bool(new)

    async def status(self, id_: str) -> Status | None:
        """A job by its id; None if there is none (any more)."""
        fields: Any = await self._redis.hgetall(self._key(id_))
        return Status.from_fields(id_, fields) if "state" in fields else None

    async def plan(self, id_: str) -> ResolvedPlan | None:
        """What a job shall write. Raises ValueError for what another version wrote."""
        text = await self._redis.get(self._key(id_, "plan"))
        return ResolvedPlan.model_validate_json(text) if text is not None else None

    async def open_ids(self) -> list[str]:
        """Jobs that are not finished, oldest first."""
        ids = {str(id_) for id_ in await self._redis.smembers(self._open)}
        scores = await self._redis.zmscore(self._all, sorted(ids)) if ids else []
        return [id_ for _, id_ in sorted((score or 0.0, id_) for id_, score in zip(sorted(ids), scores, strict=True))]

    async def newest(self, count: int) -> list[Status]:
        """The newest jobs."""
        await self._redis.zremrangebyscore(self._all, "-inf", time.time() - self._keep_s)
        ids: Any = await self._redis.zrevrange(self._all, 0, count - 1)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for id_ in ids:
                pipeline.hgetall(self._key(id_))
            rows: Any = await pipeline.execute()
        return [Status.from_fields(id_, row) for id_, row in zip(ids, rows, strict=True) if "state" in row]

    async def request_cancel(self, id_: str) -> None:
        """Whoever works on the job ends it."""
        await self._redis.set(self._key(id_, "cancel"), "1", ex=self._keep_s)

    async def reopen(self, id_: str, max_open: int) -> bool:
        """Queue a cancelled job again; False if it isn't cancelled. Raises `TooManyJobs`."""
        parts = (self._key(id_), self._key(id_, "plan"), self._key(id_, "records"), self._open)
        if (answer := int(await self._reopen(keys=[*parts, self._key(id_, "cancel")], args=[id_, max_open]))) < 0:
            raise TooManyJobs
        return bool(answer)

    async def cancel_requested(self, id_: str) -> bool:
        """Whether somebody wants the job to end. Raises `JobGone`."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.exists(self._key(id_))
            pipeline.exists(self._key(id_, "cancel"))
            is_there, is_cancelled = await pipeline.execute()
        if not is_there:
            raise JobGone(id_)
        return bool(is_cancelled)

    async def save(self, status: Status) -> None:
        """Write the status, unless the job is finished; a finished one leaves the open set and expires later.

        Raises `JobGone`.
        """
        parts = ("plan", "records", *WHILE_OPEN)
        keys = [self._key(status.id), self._open, *(self._key(status.id, part) for part in parts)]
        seconds = self._keep_s if status.done else 0
        if int(await self._save(keys=keys, args=[status.id, seconds, *status.fields()])) < 0:
            raise JobGone(status.id)

    def lease(self, id_: str, owner: str) -> Lease:
        """The right to work on a job, not yet taken."""
        work = f"job:{id_}"
        return Lease(self._redis, self._dataset, work, owner, lease_s=self._lease_s, renew_s=self._lease_s * 0.3)

    async def delete_lease(self, id_: str) -> None:
        """A finished job needs none: remove what may have been taken after its end."""
        await self._redis.delete(*(self._key(id_, part) for part in LEASE_KEYS))

    async def record(self, status: Status, first: int, results: Sequence[WorkItemResult]) -> bool:
        """Enter the results of work items `first` and following, with the status after them. False, and nothing done,
        if those places are taken or the job is finished. Raises `JobGone`."""
        keys = [self._key(status.id), self._key(status.id, "records")]
        arguments: list[str | int] = [first, len(results), *(result.to_json() for result in results)]
        answer = int(await self._record(keys=keys, args=[*arguments, *status.fields()]))
        if answer < 0:
            raise JobGone(status.id)
        return bool(answer)

    async def results(self, id_: str, first: int = 0) -> AsyncIterator[WorkItemResult]:
        """What became of the work items, from `first` on, in order."""
        while True:
            page: Any = await self._redis.lrange(self._key(id_, "records"), first, first + PAGE - 1)
            for text in page:
                yield WorkItemResult.model_validate_json(text)
            first += len(page)
            if len(page) < PAGE:
                return

    def _key(self, id_: str, *parts: str) -> str:
        return key(self._dataset, "job", id_, *parts)
