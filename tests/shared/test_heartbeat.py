"""Heartbeats: the last status of each service, gone soon after its writer."""

import asyncio

import pytest
from redis.asyncio import Redis

from shared.heartbeat import EXPIRES_AFTER_S, Heartbeats
from shared.redis import command_client

pytestmark = pytest.mark.anyio


async def test_the_last_note_is_read_and_services_do_not_mix(redis: Redis, dataset: str) -> None:
    heartbeats = Heartbeats(redis, dataset)
    assert await heartbeats.read("trainer") == {}
    await heartbeats.post("trainer", {"phase": "waiting", "pairs": 1})
    await heartbeats.post("trainer", {"phase": "training", "pairs": 2})
    await heartbeats.post("generation", {"running": 3})
    assert await heartbeats.read("trainer") == {"phase": "training", "pairs": 2}
    assert await heartbeats.read("generation") == {"running": 3}


async def test_a_dead_service_s_note_fades(redis: Redis, dataset: str) -> None:
    await Heartbeats(redis, dataset).post("trainer", {"phase": "training"})
    assert 0 < await redis.ttl(f"pairwright:{{{dataset}}}:status:trainer") <= EXPIRES_AFTER_S
    await redis.expire(f"pairwright:{{{dataset}}}:status:trainer", 0)
    assert await Heartbeats(redis, dataset).read("trainer") == {}


@pytest.mark.slow
async def test_who_listens_hears_of_a_new_version(redis: Redis, dataset: str) -> None:
    announced = asyncio.Event()
    listening = asyncio.create_task(Heartbeats(redis, dataset).listen(announced.set))
    channel = f"pairwright:{{{dataset}}}:published"
    for _ in range(1000):
        if await redis.publish(channel, "is anybody there?"):
            break
        await asyncio.sleep(0.01)
    await announced.wait()
    announced.clear()
    await Heartbeats(redis, dataset + "-other").announce("r000001-00000000")
    await asyncio.sleep(2.5)  # quiet connections stay
    assert not announced.is_set()
    await Heartbeats(redis, dataset).announce("r000001-00000000")
    async with asyncio.timeout(10):
        await announced.wait()
    listening.cancel()


async def test_without_redis_nothing_is_heard_and_nothing_fails(dataset: str) -> None:
    heartbeats = Heartbeats(command_client("redis://127.0.0.1:1/0"), dataset)
    await heartbeats.announce("r000001-00000000")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await heartbeats.listen(lambda: pytest.fail("an announcement"))
