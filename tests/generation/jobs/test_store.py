"""Jobs in Redis: claims, the lead, records in their places, and calls that come too late."""

import asyncio

import pytest
from redis.asyncio import Redis

from services.generation.jobs.records import Record
from services.generation.jobs.store import JobStore, Status, TooManyJobs
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import BUILT_IN, load_tasks

pytestmark = pytest.mark.anyio
PLAN = Plan(num_inputs=10).written_out(load_tasks([BUILT_IN]))
RECORD: Record = {"sentence1": "A.", "pairs": [], "rejected": {}, "samples": 3, "lost": {}}


@pytest.fixture
def store(redis: Redis, dataset: str) -> JobStore:
    return JobStore(redis, dataset, keep_s=60, lease_s=0.5)


async def job(store: JobStore) -> Status:
    status = Status("", task="sts", requested=30)
    status.id, new = await store.create(PLAN, status, None, max_open=100)
    assert new
    return status


async def test_units_are_claimed_once_and_again_when_a_claim_lapses(store: JobStore) -> None:
    id_ = (await job(store)).id
    claimed = await asyncio.gather(*(store.claim(id_, 10, 3, 100) for _ in range(5)))
    assert sorted(unit for units in claimed for unit in units) == list(range(10))
    assert await store.claim(id_, 10, 3, 100) == []
    await store.draft(id_, 4, RECORD)
    for _ in range(4):  # renewed claims hold
        await asyncio.sleep(0.2)
        await store.renew(id_, [0, 1])
    assert sorted(await store.claim(id_, 10, 100, 100)) == [2, 3, 5, 6, 7, 8, 9]
    assert await store.drafts(id_, [3, 4]) == {4: RECORD}


async def test_claims_stay_within_the_window(store: JobStore) -> None:
    status = await job(store)
    assert await store.claim(status.id, 10, 100, 4) == [0, 1, 2, 3]
    assert await store.claim(status.id, 10, 100, 4) == []
    assert await store.record(status, 0, [RECORD, RECORD])
    assert await store.claim(status.id, 10, 100, 4) == [4, 5]


async def test_released_claims_and_leads_are_free_at_once(store: JobStore) -> None:
    id_ = (await job(store)).id
    assert await store.claim(id_, 10, 2, 100) == [0, 1]
    assert await store.lead(id_, "one")
    assert not await store.lead(id_, "other")
    await store.release(id_, "other", [])
    assert not await store.lead(id_, "other")
    await store.release(id_, "one", [0, 1])
    assert await store.lead(id_, "other")
    assert sorted(await store.claim(id_, 10, 2, 100)) == [0, 1]


async def test_a_lead_that_is_not_renewed_ends(store: JobStore) -> None:
    id_ = (await job(store)).id
    assert await store.lead(id_, "one")
    await asyncio.sleep(0.6)
    assert await store.lead(id_, "other")
    assert not await store.lead(id_, "one")


async def test_a_record_has_one_place(store: JobStore) -> None:
    """A leader that was thought dead, or a reply that was lost: what is recorded already is not recorded again."""
    status = await job(store)
    assert await store.record(status, 0, [RECORD, RECORD | {"samples": 4}])
    assert not await store.record(status, 0, [RECORD])
    assert not await store.record(status, 5, [RECORD])
    assert await store.record(status, 2, [RECORD | {"samples": 5}])
    assert [record["samples"] async for record in store.records(status.id)] == [3, 4, 5]
    assert [record["samples"] async for record in store.records(status.id, first=2)] == [5]


async def test_a_call_that_comes_after_the_end_changes_nothing(store: JobStore) -> None:
    status = await job(store)
    late = Status(status.id, state="running", task="sts", requested=30)
    status.state = "failed"
    await store.save(status)
    await store.save(late)
    assert not await store.record(late, 0, [RECORD])
    found = await store.status(status.id)
    assert found is not None
    assert found.state == "failed"
    assert await store.open_ids() == []


async def test_jobs_are_bounded_and_listed_in_order(store: JobStore) -> None:
    ids = [(await job(store)).id for _ in range(3)]
    assert await store.open_ids() == ids
    assert [view["id"] for view in await store.newest(2)] == ids[:0:-1]
    with pytest.raises(TooManyJobs):
        await store.create(PLAN, Status(""), None, max_open=3)
    key = "a caller's key"
    first = await store.create(PLAN, Status(""), key, max_open=4)
    assert first[1]
    assert await store.create(PLAN, Status(""), key, max_open=4) == (first[0], False)
    assert await store.plan(first[0]) == PLAN
