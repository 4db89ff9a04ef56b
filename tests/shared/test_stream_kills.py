"""The pair stream's promise while its server is killed: nothing accepted is lost, nothing is counted twice."""

import asyncio
import os
import signal
from collections import Counter

import pytest
from redis.exceptions import RedisError

from shared.queue import EmbeddedServer
from shared.redis import command_client, reading_client
from shared.stream import Append, Offer, PairStream
from tests.shared.conftest import record, wait_until_async

pytestmark = pytest.mark.anyio

KILLS, WRITERS, BATCHES, SIZE = 5, 8, 40, 5


class Writer:
    """Offers its pairs in batches and repeats each batch until it is answered, as a job does."""

    def __init__(self, number: int, url: str) -> None:
        self._first = number * BATCHES * SIZE
        self._client = command_client(url)
        self._stream = PairStream(self._client, "default")

    async def write(self) -> list[Append]:
        answers: list[Append] = []
        for first in range(self._first, self._first + BATCHES * SIZE, SIZE):
            answers += await self._answer([Offer(record(n), f"job:{n}") for n in range(first, first + SIZE)])
        await self._client.aclose()
        return answers

    async def _answer(self, batch: list[Offer]) -> list[Append]:
        while True:
            try:
                return await self._stream.append(batch)
            except (RedisError, OSError):
                await asyncio.sleep(0.02)


class Reader:
    """Keeps what it reads, then acknowledges it; an entry that comes again is recognised by its id."""

    def __init__(self, url: str) -> None:
        self._client = reading_client(url, longest_block_s=0.1)
        self._stream = PairStream(self._client, "default")
        self._kept: dict[str, int] = {}

    async def read_until(self, writers_are_done: asyncio.Event) -> Counter[int]:
        """How often each number was in the stream."""
        while True:
            done = writers_are_done.is_set()
            try:
                if not await self._read_once() and done:
                    break
            except (RedisError, OSError):
                await asyncio.sleep(0.02)
        await self._client.aclose()
        return Counter(self._kept.values())

    async def _read_once(self) -> int:
        deliveries = await self._stream.read("trainer", count=64, block_ms=100)
        for delivery in deliveries:
            assert delivery.record is not None
            self._kept[delivery.id] = delivery.record.provenance.seed
        await self._stream.acknowledge(deliveries)
        return len(deliveries)


async def kill_repeatedly(server: EmbeddedServer) -> None:
    """Kill the server `KILLS` times, each time after it came back and worked for a while."""
    for kills in range(KILLS):
        await asyncio.sleep(0.15)
        assert server.process.pid is not None
        os.kill(server.process.pid, signal.SIGKILL)
        await wait_until_async(lambda kills=kills: server.process.restarts > kills, "the restart")  # type: ignore[misc]
        await wait_until_async(server._answers, "the restarted server")


@pytest.mark.slow
async def test_nothing_accepted_is_lost_or_doubled(own_server: EmbeddedServer) -> None:
    done = asyncio.Event()
    reading = asyncio.create_task(Reader(own_server.url).read_until(done))
    killing = asyncio.create_task(kill_repeatedly(own_server))
    answers = await asyncio.gather(*(Writer(number, own_server.url).write() for number in range(WRITERS)))
    await killing
    done.set()
    assert [answer for one in answers for answer in one] == [Append.ACCEPTED] * (WRITERS * BATCHES * SIZE)
    assert await reading == Counter(range(WRITERS * BATCHES * SIZE))
