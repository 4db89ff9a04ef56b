"""Who may collect, train and publish: one at a time, with an epoch that only grows."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.lease import Lease
from shared.model_store import Fenced, ModelStore
from shared.queue import EmbeddedServer
from shared.redis import command_client
from tests.support.publisher import card, write_model

pytestmark = pytest.mark.anyio

Make = Callable[[str], Lease]


@pytest.fixture
async def lease(server: EmbeddedServer, dataset: str) -> AsyncIterator[Make]:
    client = command_client(server.url)
    yield lambda folder: Lease(client, dataset, "trainer", folder, renew_s=0.1)
    await client.aclose()


async def soon(lease: Lease, least_epoch: int = 1) -> int:
    """The epoch if the lease is to be had at once, or 0."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, stopping.set)
    return await lease.take(least_epoch, stopping)


async def test_one_holds_it_and_the_next_gets_a_higher_epoch(lease: Make) -> None:
    first, second = lease("a"), lease("b")
    assert await soon(first) == 1
    assert (await soon(second), second.held) == (0, False)
    await first.release()
    assert await soon(second) == 2


async def test_the_next_trainer_on_the_same_folder_need_not_wait_for_a_dead_one(lease: Make) -> None:
    assert await soon(lease("a")) == 1
    assert await soon(lease("a")) == 2


async def test_a_holder_notices_that_another_has_it(lease: Make, redis: Redis, dataset: str) -> None:
    first, second = lease("a"), lease("b")
    await soon(first)
    await redis.delete(f"pairwright:{{{dataset}}}:trainer:lease")
    assert await soon(second) == 2
    await asyncio.wait_for(first.keep(), 30)
    assert not first.held
    assert second.held


async def test_a_lease_that_redis_forgot_is_taken_again(lease: Make, redis: Redis, dataset: str) -> None:
    first = lease("a")
    await soon(first)
    await redis.delete(f"pairwright:{{{dataset}}}:trainer:lease")
    keeping = asyncio.create_task(first.keep())
    async with asyncio.timeout(30):
        while first.epoch != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    keeping.cancel()
    assert await redis.exists(f"pairwright:{{{dataset}}}:trainer:lease")


async def test_a_lease_that_was_taken_without_an_answer_is_taken_again(lease: Make) -> None:
    """As when the reply to our own attempt is lost: Redis counts an epoch that we don't know."""
    first = lease("a")
    await soon(first)
    assert await soon(lease("a")) == 2
    keeping = asyncio.create_task(first.keep())
    async with asyncio.timeout(30):
        while first.epoch != 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    keeping.cancel()


async def test_an_emptied_redis_does_not_bring_old_epochs_back(lease: Make) -> None:
    assert await soon(lease("a"), least_epoch=8) == 8


def publish(store: ModelStore, round_: int, epoch: int) -> None:
    with store.staging() as staged:
        write_model(staged)
        store.publish(staged, card(round_).model_copy(update={"epoch": epoch}), [[0.0]] * 4)


async def test_a_trainer_that_lost_its_lease_publishes_nothing(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    store.fence(1)
    publish(store, 1, epoch=1)
    store.fence(2)
    publish(store, 2, epoch=2)
    current = store.current()
    with pytest.raises(Fenced, match="epoch 2, ours is 1"):
        publish(store, 3, epoch=1)
    with pytest.raises(Fenced):
        store.fence(1)
    assert store.current() == current
    assert [manifest.epoch for manifest in store.versions()] == [1, 2]
