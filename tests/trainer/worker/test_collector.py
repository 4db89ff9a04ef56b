"""From a real stream into the dataset."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.trainer.dataset.store import Dataset, DatasetThread, open_dataset
from services.trainer.worker.collector import Collector
from shared.pairs import Pair, PairRecord
from shared.queue import EmbeddedServer
from shared.redis import command_client, reading_client
from shared.stream import Append, Offer, PairStream
from tests.support.documents import make_document, retrieval
from tests.support.pairs import make_pairs, records

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
def thread(pairs_dataset: Dataset, tmp_path: Path) -> Iterator[DatasetThread]:
    with DatasetThread(pairs_dataset, tmp_path / "datasets" / "default") as thread:
        yield thread


@pytest.fixture
def collector(reader: PairStream, stream: PairStream, thread: DatasetThread) -> Collector:
    return Collector(reader, stream, thread)


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


async def test_another_job_s_score_updates_a_pair_and_no_redelivery_takes_it_back(
    server: EmbeddedServer, dataset: str, stream: PairStream, collector: Collector, pairs_dataset: Dataset
) -> None:
    [first] = make_pairs(1)
    second = first.model_copy(update={"score": 0.25})
    for job, pair in (("one", first), ("two", second)):
        await stream.append([Offer(record, f"{job}/0/0") for record in records([pair])])
    client = reading_client(server.url, longest_block_s=1)
    [old, new] = await PairStream(client, dataset).read("trainer-0", count=8)
    for delivery in (old, new):
        assert delivery.record is not None
        pairs_dataset.add([delivery.record], times=[delivery.came])
    await client.aclose()  # dead between commit and acknowledgement
    third = first.model_copy(update={"score": 0.75})
    assert pairs_dataset.add(records([third])) == (0, 1), "a person's correction, meanwhile"
    await collector.drain()
    assert [record.pair for record, _ in pairs_dataset.records()] == [third]
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
    dead: Any = await redis.xrange(stream.dead_key)
    assert [fields["fault"] for _, fields in dead] == [
        "Invalid JSON: key must be a string at line 1 column 2",
        "the entry has no field 'record'",
    ]


async def test_documents_are_kept_beside_pairs_and_a_redelivery_changes_nothing(
    server: EmbeddedServer, dataset: str, stream: PairStream, collector: Collector, pairs_dataset: Dataset
) -> None:
    old, new = make_document("a", "The pool is closed."), make_document("a", "The pool is open.")
    await offer(stream, 3)
    for document in (old, make_document("b", "Breakfast is at eight."), new):
        await stream.append_documents([document])
    client = reading_client(server.url, longest_block_s=1)
    taken = await PairStream(client, dataset).read("trainer-0")
    await client.aclose()
    documents = [one for one in taken if one.document is not None]
    pairs_dataset.add_documents([one.document for one in documents if one.document], [one.came for one in documents])
    before = list(pairs_dataset.passages())  # dead between commit and acknowledgement
    await collector.drain()
    assert list(pairs_dataset.passages()) == before
    assert [one.text for one in before] == ["Breakfast is at eight.", "The pool is open."]
    assert (pairs_dataset.count(), await stream.backlog(), await stream.count_dead_letters()) == (3, 0, 0)


async def test_queries_of_a_passage_that_has_changed_may_come_again(
    stream: PairStream, collector: Collector, pairs_dataset: Dataset
) -> None:
    old, query = make_document("a", "The pool is closed."), retrieval("is the pool open", "The pool is closed.")
    await stream.append_documents([old])
    await stream.append([Offer(query, "one/0/0")])
    await collector.drain()
    await stream.append_documents([make_document("a", "The pool is open.")])
    await collector.drain()
    assert pairs_dataset.count() == 0
    assert await stream.append([Offer(query, "two/0/0")]) == [Append.ACCEPTED]


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
    with (
        open_dataset(tmp_path / "datasets" / "default", read_only=True) as full_disk,
        pytest.raises(sqlite3.OperationalError),
    ):
        await Collector(reader, stream, DatasetThread(full_disk, tmp_path)).collect(block_ms=10)
    assert await stream.backlog() == 20
    await collector.drain()
    assert pairs_dataset.count() == 20


def refuse(dataset: Dataset, how: str) -> None:
    """Have the dataset's file itself refuse one pair, of which the trainer knows nothing."""
    dataset._db.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
    dataset._db.execute(
        f"CREATE TEMP TRIGGER refuse BEFORE INSERT ON pair WHEN NEW.sentence1 = 'refused' BEGIN SELECT {how}; END"
    )


async def offer_bad_among_others(stream: PairStream) -> None:
    await offer(stream, 10)
    refused = records([Pair(sentence1="refused", sentence2="x", score=0.5)])
    await stream.append([Offer(record, "job") for record in refused])
    await stream.append([Offer(record, "job") for record in records(make_pairs(20)[10:])])


async def dead_letters(redis: Redis, stream: PairStream) -> list[dict[str, str]]:
    entries: Any = await redis.xrange(stream.dead_key)
    return [fields for _, fields in entries]


async def test_what_the_dataset_refuses_is_buried_after_five_deliveries_and_the_rest_is_kept(
    redis: Redis, stream: PairStream, collector: Collector, pairs_dataset: Dataset
) -> None:
    refuse(pairs_dataset, "RAISE(ABORT, 'not this one')")
    await offer_bad_among_others(stream)
    for delivery in range(1, 6):
        assert await dead_letters(redis, stream) == [], f"delivery {delivery}"
        await collector.collect(block_ms=10)
        assert pairs_dataset.count() == 20
    [dead] = await dead_letters(redis, stream)
    assert (dead["fault"], dead["deliveries"]) == ("the dataset refuses it: not this one", "5")
    assert PairRecord.model_validate_json(dead["record"]).pair.sentence1 == "refused"
    assert await stream.backlog() == 0


async def test_an_outage_of_the_disk_is_no_entry_s_fault_however_long(
    redis: Redis, stream: PairStream, reader: PairStream, collector: Collector, pairs_dataset: Dataset, tmp_path: Path
) -> None:
    await offer(stream, 20)
    with open_dataset(tmp_path / "datasets" / "default", read_only=True) as full_disk:
        failing = Collector(reader, stream, DatasetThread(full_disk, tmp_path))
        for _ in range(12):
            with pytest.raises(sqlite3.OperationalError):
                await failing.collect(block_ms=10)
    await collector.drain()
    assert (pairs_dataset.count(), await stream.backlog(), await stream.count_dead_letters()) == (20, 0, 0)


@pytest.mark.slow
async def test_what_kills_the_trainer_is_found_and_buried_and_nothing_else_is(
    server: EmbeddedServer, redis: Redis, dataset: str, stream: PairStream, tmp_path: Path
) -> None:
    await offer_bad_among_others(stream)
    deaths = 0
    while (child := os.fork()) or True:
        if child == 0:
            asyncio.new_event_loop().run_until_complete(
                collect_and_die(server.url, dataset, tmp_path / "datasets" / "default")
            )
            os._exit(0)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):  # noqa: ASYNC222
            deaths += 1
            assert deaths < 20
            continue
        break
    assert deaths == 10, "five together with others, then five alone"
    [dead] = await dead_letters(redis, stream)
    assert dead["fault"] == "the trainer died of it 5 times"
    with open_dataset(tmp_path / "datasets" / "default") as kept:
        assert kept.count() == 20
    assert await stream.backlog() == 0


async def collect_and_die(url: str, name: str, folder: Path) -> None:
    """What a trainer does in a process of its own, on a dataset that kills it."""
    with open_dataset(folder) as opened:
        refuse(opened, "die()")
        reading, commands = reading_client(url, longest_block_s=1), command_client(url)
        await Collector(PairStream(reading, name), PairStream(commands, name), DatasetThread(opened, folder)).drain()
