"""Run as a process by the kill test: collectors, one after the other, each killed at a random moment.

Two of them are broken on purpose, in the two ways that matter; they show that the test would notice.
"""

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from redis.exceptions import RedisError

from services.trainer.dataset.pair_rows import Added
from services.trainer.dataset.store import Dataset, DatasetThread, open_dataset
from services.trainer.worker.collector import Collector
from shared.pairs import PairRecord
from shared.redis import command_client, reading_client
from shared.stream import Delivery, PairStream

LONGEST_LIFE_S = 0.06


class AcksFirst(Collector):
    """Broken: forgets the entries before it has committed them."""

    async def _keep(self, deliveries: Sequence[Delivery]) -> None:
        await self._writer.acknowledge(deliveries)
        await self._add(deliveries)


class WithoutUniqueKey(Dataset):
    """Broken: keeps an entry as often as it comes."""

    def add(
        self,
        records: Sequence[PairRecord],
        traceparents: Iterable[str] = (),  # noqa: ARG002
        times: Sequence[float] = (),  # noqa: ARG002
    ) -> Added:
        rows = [(record.pair.content_hash.encode() + os.urandom(4), record) for record in records]
        with self._db:
            for hash_, record in rows:
                self._db.execute(
                    "INSERT INTO pair (hash, sentence1, sentence2, score, provenance, collected)"
                    " VALUES (?, ?, ?, ?, '{}', 0)",
                    (hash_, record.pair.sentence1, record.pair.sentence2, record.pair.score),
                )
            self._db.execute("UPDATE total SET pairs = pairs + ?", (len(records),))
        return Added(len(records), 0)


async def collect(url: str, folder: Path, variant: str, until_empty: bool) -> None:
    """Collect until killed, or until nothing waits."""
    with open_dataset(folder) as opened:
        dataset = DatasetThread(WithoutUniqueKey(opened._db) if variant == "no-unique-key" else opened, folder)
        reading, commands = reading_client(url, longest_block_s=0.2), command_client(url)
        streams = PairStream(reading, "default"), PairStream(commands, "default")
        collector = (AcksFirst if variant == "acks-first" else Collector)(*streams, dataset)
        while True:
            try:
                if not await collector.collect(block_ms=50) and until_empty and not await streams[1].backlog():
                    return
            except (RedisError, OSError, sqlite3.Error):
                await asyncio.sleep(0.01)


def main() -> None:
    """Kill collectors until stdin ends, then let one finish. Prints how many were killed."""
    url, folder, variant, seed = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    generator, kills = random.Random(seed), 0
    os.set_blocking(0, False)
    while sys.stdin.buffer.read(1) is None:  # b"" is the end of stdin
        child = os.fork()
        if child == 0:
            asyncio.run(collect(url, folder, variant, until_empty=False))
        time.sleep(0.03 + generator.random() * LONGEST_LIFE_S)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    asyncio.run(collect(url, folder, variant, until_empty=True))
    sys.stdout.write(f"{kills}\n")


if __name__ == "__main__":
    main()
