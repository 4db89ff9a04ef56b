"""Kill -9 of the trainer's collecting and of Redis, at random moments, again and again: nothing lost, nothing doubled.

The same test on two broken collectors must find lost and doubled pairs, or it would prove nothing.
"""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from services.trainer.dataset.store import FILE, open_dataset
from shared.pairs import Pair
from shared.queue import EmbeddedServer
from shared.redis import command_client
from shared.stream import Offer, PairStream
from tests.shared.conftest import wait_until
from tests.support.pairs import make_pairs, records
from tests.support.trainer import ROOT

SECONDS, REDIS_KILLS, BATCH = 3.0, 2, 20


def kept(folder: Path) -> Counter[tuple[str, str]]:
    with closing(sqlite3.connect(folder / FILE)) as connection:
        return Counter(connection.execute("SELECT sentence1, sentence2 FROM pair").fetchall())


async def offer(url: str, pairs: list[Pair], twice: bool) -> None:
    """As a job does: until it is accepted. With `twice`, one pair again past the deduplication, which fades."""
    client = command_client(url)
    stream = PairStream(client, "default")
    offers = [Offer(record, "job") for record in records(pairs)]
    while True:
        with contextlib.suppress(RedisError, OSError):
            await stream.append(offers)
            if twice:
                await client.xadd(stream.key, {"v": "1", "record": offers[0].record.model_dump_json()})
            break
    await client.aclose()


def run(server: EmbeddedServer, folder: Path, variant: str, seed: int) -> tuple[set[tuple[str, str]], int]:
    """Produce and kill for a while; what was accepted, and how many collectors were killed."""
    with open_dataset(folder):
        pass
    pairs, sent = make_pairs(30_000, seed), list[Pair]()
    command = [sys.executable, "-m", "tests.support.killed_collectors", server.url, str(folder), variant, str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        ends, redis_kills = time.monotonic() + SECONDS, 0
        while time.monotonic() < ends:
            batch = pairs[len(sent) : len(sent) + BATCH]
            asyncio.run(offer(server.url, batch, twice=variant == "right"))
            sent += batch
            time.sleep(0.005)
            if SECONDS - (ends - time.monotonic()) > (redis_kills + 1) * SECONDS / (REDIS_KILLS + 1):
                redis_kills += 1
                assert server.process.pid is not None
                os.kill(server.process.pid, signal.SIGKILL)
                wait_until(lambda: server.process.restarts >= redis_kills, "the restart of Redis")  # noqa: B023
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return {(pair.sentence1, pair.sentence2) for pair in sent}, int(output)


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_doubled(own_server: EmbeddedServer, tmp_path: Path) -> None:
    sent, kills = run(own_server, tmp_path / "dataset", "right", seed=1)
    found = kept(tmp_path / "dataset")
    assert sent - found.keys() == set(), "lost"
    assert {pair: count for pair, count in found.items() if count > 1} == {}, "doubled"
    assert found.keys() == sent
    assert kills >= 10
    assert own_server.process.restarts >= REDIS_KILLS


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "seeds"), [("acks-first", range(1, 21)), ("no-unique-key", range(1, 21))])
def test_the_test_notices_a_broken_collector(
    own_server: EmbeddedServer, tmp_path: Path, variant: str, seeds: range
) -> None:
    for seed in seeds:  # the fault is in a window of milliseconds: some runs may miss it
        sent, _ = run(own_server, tmp_path / f"{seed}", variant, seed)
        found = kept(tmp_path / f"{seed}")
        if (sent - found.keys()) if variant == "acks-first" else any(count > 1 for count in found.values()):
            return
    pytest.fail(f"{variant} got away with it")
