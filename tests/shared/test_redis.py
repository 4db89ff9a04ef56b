"""Clients of Redis, on a real server."""

import asyncio

import pytest

from shared.queue import EmbeddedServer
from shared.redis import command_client

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("ticks", range(12))
async def test_a_cancelled_command_is_cancelled(server: EmbeddedServer, ticks: int) -> None:
    """At whatever moment: plain redis-py on Python 3.11 goes on if the command has just been sent."""
    redis = command_client(server.url)
    await redis.ping()

    async def ask_for_ever() -> None:
        while True:
            await redis.set("name", "value")

    asking = asyncio.create_task(ask_for_ever())
    for _ in range(ticks):
        await asyncio.sleep(0)
    asking.cancel()
    done, _ = await asyncio.wait([asking], timeout=2)
    still_asking = not done
    while not asking.done():
        asking.cancel()
        await asyncio.sleep(0.001)
    assert not still_asking
    assert asking.cancelled()
    assert await redis.get("name") in ("value", None), "the connection is of use, or another one is made"
    await redis.aclose()
