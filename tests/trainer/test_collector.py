"""From a real stream into the dataset."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.trainer.collector import Collector
from services.trainer.dataset import Dataset, open_dataset
from shared.queue import EmbeddedServer
from shared.redis_client import reading_client
from shared.stream import Offer, PairStream
from tests.trainer.made_pairs import make_pairs, records

pytestmark = pytest.mark.anyio


@pytest.fixture
def stream(redis: Redis, dataset: str) -> PairStream:
    return PairStream(redis, dataset)


@pytest.fixture
async def reader(server: EmbeddedServer, dataset: str) -> AsyncIterator[PairStream]:
    client = reading_client(server.url, longest_block_s=1)
    yield PairStream(client, dataset)
    await client.aclose()


@pytest.fixture
def collector(reader: PairStream, stream: PairStream, pairs_dataset: Dataset) -> Collector:
    return Collector(reader, stream, pairs_dataset)


async def offer(stream: PairStream, count: int) -> None:
    await stream.append([Offer(record, "job") for record in records(make_pairs(count))])


async def test_what_is_collected_is_kept_and_leaves_the_stream(
    stream: PairStream, collector: Collector, pairs_dataset: Dataset
) -> None:
    await offer(stream, 20)
    assert await collector.collect(block_ms=10) == 20
    assert pairs_dataset.count() == 20
    assert await stream.backlog() == 0
    assert await collector.collect(block_ms=10) == 0


async def test_what_a_dead_trainer_did_not_acknowledge_comes_to_the_next(
    server: EmbeddedServer, dataset: str, stream: PairStream, collector: Collector, pairs_dataset: Dataset
) -> None:
    await offer(stream, 20)
    client = reading_client(server.url, longest_block_s=1)
    taken = await PairStream(client, dataset).read("trainer-0", count=8)
    pairs_dataset.add([delivery.record for delivery in taken[:3] if delivery.record is not None])
    await client.aclose()  # dead between commit and acknowledgement
    await collector.drain()
    assert pairs_dataset.count() == 20
    assert await stream.backlog() == 0


async def test_garbage_goes_to_the_dead_letters_and_the_rest_flows(
    redis: Redis, stream: PairStream, collector: Collector, pairs_dataset: Dataset
) -> None:
    await redis.xadd(stream.key, {"record": "{not json"})
    await redis.xadd(stream.key, {"other": "field"})
    await offer(stream, 5)
    await collector.drain()
    assert pairs_dataset.count() == 5
    assert await stream.backlog() == 0
    dead: Any = await redis.xrange(f"{stream.prefix}:dead")
    assert [fields["fault"] for _, fields in dead] == [
        "Invalid JSON: key must be a string at line 1 column 2",
        "the entry has no field 'record'",
    ]


async def test_draining_takes_more_than_one_read(
    stream: PairStream, collector: Collector, pairs_dataset: Dataset
) -> None:
    await offer(stream, 700)
    await collector.drain()
    assert pairs_dataset.count() == 700


async def test_nothing_leaves_the_stream_before_it_is_committed(
    stream: PairStream, collector: Collector, pairs_dataset: Dataset, reader: PairStream, tmp_path: Path
) -> None:
    await offer(stream, 20)
    with open_dataset(tmp_path / "dataset", read_only=True) as full_disk, pytest.raises(sqlite3.OperationalError):
        await Collector(reader, stream, full_disk).collect(block_ms=10)
    assert await stream.backlog() == 20
    await collector.drain()
    assert pairs_dataset.count() == 20
