"""What all tests share: a private Valkey server, and a dataset's name that nobody else uses."""

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from redis.asyncio import Redis

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing may be fetched
os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch is imported: see shared.process.disable_openmp_spinning

from shared.queue import EmbeddedServer
from shared.redis import command_client

# No test fails for being slow; in CI the same examples are tried every time.
settings.register_profile("pairwright", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("pairwright")

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
