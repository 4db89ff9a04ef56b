"""A real Valkey server of the tests' own, clients for it, and waiting with an end."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.pairs import Pair, PairRecord, Provenance
from shared.queue import EmbeddedServer
from shared.redis_client import command_client

_datasets = itertools.count()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One server for all tests that don't kill it; each takes a dataset of its own."""
    server = EmbeddedServer(tmp_path_factory.mktemp("queue"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def redis(server: EmbeddedServer) -> AsyncIterator[Redis]:
    client = command_client(server.url)
    yield client
    await client.aclose()


@pytest.fixture
def dataset() -> str:
    """A dataset's name that no other test uses."""
    return f"test-{next(_datasets)}"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server that the test may kill."""
    server = EmbeddedServer(tmp_path / "queue")
    server.start()
    yield server
    server.stop()


def record(number: int) -> PairRecord:
    """A pair that differs for each number."""
    return PairRecord(
        pair=Pair(sentence1=f"A man counts to {number}.", sentence2=f"Someone counts {number} sheep.", score=0.5),
        provenance=Provenance(dataset="default", task="sts", label="0.5", job="job", teacher="default", seed=number),
    )


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    """Return once `condition` holds; fail with `what` if that takes longer than any healthy machine needs."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.02)


async def wait_until_async(condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    """`wait_until` beside other coroutines."""
    await asyncio.to_thread(wait_until, condition, what, timeout_s)
