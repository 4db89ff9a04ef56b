"""Jobs in Redis: leases, results in their places, and calls that come too late."""

import asyncio

import pytest
from redis.asyncio import Redis

from services.generation.jobs.status import Status
from services.generation.jobs.store import JobGone, JobStore, TooManyJobs
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import load_all_tasks
from services.generation.pairs.work_item import WorkItemResult
from shared.redis import key

pytestmark = pytest.mark.anyio
PLAN = Plan(num_inputs=10).resolve(load_all_tasks(None))


def result(samples: int = 3) -> WorkItemResult:
    return WorkItemResult(sentence1="A.", samples=samples)


@pytest.fixture
def store(redis: Redis, dataset: str) -> JobStore:
    return JobStore(redis, dataset, keep_s=60, lease_s=0.5)


async def job(store: JobStore) -> Status:
    status = Status("", task="sts", requested=30)
    status.id, new = await store.create(PLAN, status, None, max_open=100)
    assert new
    return status


async def test_a_job_has_one_owner_until_its_lease_is_released_or_ends(store: JobStore) -> None:
    id_ = (await job(store)).id
    one, other = store.lease(id_, "one"), store.lease(id_, "other")
    assert (await one.try_to_take())[0] == 1
    assert (await other.try_to_take())[0] == 0
    await one.release()
    assert (await other.try_to_take())[0] == 2
    assert (await one.try_to_take())[0] == 0
    await asyncio.sleep(0.6)
    assert (await one.try_to_take())[0] == 3


async def test_a_finished_job_keeps_nothing_that_only_work_needs(store: JobStore, redis: Redis, dataset: str) -> None:
    status = await job(store)
    await store.lease(status.id, "one").try_to_take()
    await store.request_cancel(status.id)
    for left_by_an_older_version in ("claims", "drafts", "lead", "next"):
        await redis.set(key(dataset, "job", status.id, left_by_an_older_version), "x")
    assert await store.cancel_requested(status.id)
    assert await store.record(status, 0, [result()])
    status.state = "cancelled"
    await store.save(status)
    job_key = key(dataset, "job", status.id)
    assert sorted(await redis.keys(f"{job_key}*")) == [job_key, f"{job_key}:plan", f"{job_key}:records"]


async def test_a_status_of_the_version_before_is_read(store: JobStore, redis: Redis, dataset: str) -> None:
    status = await job(store)
    job_key = key(dataset, "job", status.id)
    await redis.hdel(job_key, "work_items", "error")
    await redis.hset(job_key, mapping={"units": "7", "fault": '"what went wrong"'})  # retired: remove in 0.3
    read = await store.status(status.id)
    assert read is not None
    assert (read.work_items, read.error) == (7, "what went wrong")
    resource = read.to_json()
    assert (resource["units"], resource["fault"]) == (7, "what went wrong")  # retired: remove in 0.3


async def test_a_result_has_one_place(store: JobStore) -> None:
    """An owner that was thought dead, or a reply that was lost: what is recorded already is not recorded again."""
    status = await job(store)
    assert await store.record(status, 0, [result(), result(4)])
    assert not await store.record(status, 0, [result()])
    assert not await store.record(status, 5, [result()])
    assert await store.record(status, 2, [result(5)])
    assert [one.samples async for one in store.results(status.id)] == [3, 4, 5]
    assert [one.samples async for one in store.results(status.id, first=2)] == [5]


async def test_a_call_that_comes_after_the_end_changes_nothing(store: JobStore) -> None:
    status = await job(store)
    late = Status(status.id, state="running", task="sts", requested=30)
    status.state = "failed"
    await store.save(status)
    await store.save(late)
    assert not await store.record(late, 0, [result()])
    read = await store.status(status.id)
    assert read is not None
    assert read.state == "failed"
    assert await store.open_ids() == []


async def test_a_job_that_is_gone_is_not_brought_back(store: JobStore, redis: Redis, dataset: str) -> None:
    status = await job(store)
    await redis.delete(*await redis.keys(f"{key(dataset, 'job', status.id)}*"))
    for call in (store.save(status), store.record(status, 0, [result()]), store.cancel_requested(status.id)):
        with pytest.raises(JobGone):
            await call
    assert await store.status(status.id) is None
    assert await redis.keys(f"{key(dataset, 'job', status.id)}*") == []


async def test_jobs_are_bounded_and_listed_in_order(store: JobStore) -> None:
    ids = [(await job(store)).id for _ in range(3)]
    assert await store.open_ids() == ids
    assert [one.id for one in await store.newest(2)] == ids[:0:-1]
    with pytest.raises(TooManyJobs):
        await store.create(PLAN, Status(""), None, max_open=3)
    key = "a caller's key"
    first = await store.create(PLAN, Status(""), key, max_open=4)
    assert first[1]
    assert await store.create(PLAN, Status(""), key, max_open=4) == (first[0], False)
    assert await store.plan(first[0]) == PLAN


async def test_a_cancelled_job_is_opened_again_with_what_it_has(store: JobStore, redis: Redis, dataset: str) -> None:
    status = await job(store)
    assert not await store.reopen(status.id, 100), "it is open"
    await store.request_cancel(status.id)
    assert await store.record(status, 0, [result()])
    status.state, status.finished = "cancelled", 1.0
    await store.save(status)
    assert await store.open_ids() == []
    with pytest.raises(TooManyJobs):
        await store.reopen(status.id, 0)
    assert await store.reopen(status.id, 100)
    assert not await store.reopen(status.id, 100)
    opened = await store.status(status.id)
    assert opened is not None
    assert (opened.state, opened.finished) == ("queued", None)
    assert await store.open_ids() == [status.id]
    assert not await store.cancel_requested(status.id)
    assert len([one async for one in store.results(status.id)]) == 1
    for part in ("", ":plan", ":records"):
        assert await redis.ttl(key(dataset, "job", status.id) + part) == -1, "an open job doesn't expire"


async def test_a_job_that_ended_otherwise_stays_ended(store: JobStore) -> None:
    status = await job(store)
    status.state = "complete"
    await store.save(status)
    assert not await store.reopen(status.id, 100)
    assert await store.open_ids() == []
