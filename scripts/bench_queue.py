"""What a pair costs the queue: pairs a second with `appendfsync always`, and bytes in memory and on disk.

`python -m scripts.bench_queue [PAIRS]`. A private Valkey server in a temporary folder; appends as generation does,
reads as the trainer does.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from redis.asyncio import Redis

from scripts.benchmark import make_pairs
from shared.pairs import PairRecord, Provenance
from shared.queue import open_queue
from shared.redis import command_client, reading_client
from shared.stream import Offer, PairStream


def _offers(count: int) -> Iterator[Offer]:
    for number, pair in enumerate(make_pairs(count)):
        provenance = Provenance(dataset="bench", task="sts", label="1", job="0" * 32, teacher="default", seed=number)
        yield Offer(PairRecord(pair=pair, provenance=provenance), owner=f"{'0' * 32}:{number}")


async def bench(url: str, folder: Path, count: int) -> None:
    """Print what a pair takes, then one line a batch size."""
    async with command_client(url) as redis, reading_client(url, 1.0) as reading:
        before, on_disk = await _memory(redis), _size(folder)
        stream = await _append(redis, "bench", count, 64)
        waiting = await _memory(redis) - before
        print(f"appended to the log on disk: {(_size(folder) - on_disk) / count:,.0f} bytes a pair")
        reader, began = PairStream(reading, "bench"), time.perf_counter()
        while await stream.backlog():
            await stream.acknowledge(await reader.read("trainer-0", block_ms=100))
        print(f"read and acknowledge: {count / (time.perf_counter() - began):,.0f} pairs/s")
        left = await _memory(redis) - before
        print(
            f"in memory: {waiting / count:,.0f} bytes a waiting pair, {left / count:,.0f} for a week after it is taken"
        )
        for batch in (1, 16, 64, 256):
            began = time.perf_counter()
            await _append(redis, f"bench-{batch}", count, batch)
            print(f"append, {batch} a batch: {count / (time.perf_counter() - began):,.0f} pairs/s")


async def _append(redis: Redis, dataset: str, count: int, batch: int) -> PairStream:
    stream, source = PairStream(redis, dataset, limit=10 * count), _offers(count)
    while chunk := list(islice(source, batch)):
        await stream.append(chunk)
    return stream


async def _memory(redis: Redis) -> int:
    return int((await redis.info("memory"))["used_memory"])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.aof"))


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as folder, open_queue(None, Path(folder)) as url:
        asyncio.run(bench(url, Path(folder), count))
