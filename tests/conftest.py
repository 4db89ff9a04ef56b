"""What all tests share: a private Valkey server, and a dataset's name that nobody else uses."""

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from redis.asyncio import Redis

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing may be fetched
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores; before torch is imported
# Random words say nothing to a language model: tests about the gate turn it on.
os.environ.setdefault("PAIRWRIGHT_TRAINER_GATE", "off")
os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch is imported: see shared.process.disable_openmp_spinning

from shared.queue import EmbeddedServer
from shared.redis import command_client

# No test fails for being slow; in CI the same examples are tried every time.
settings.register_profile("pairwright", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("pairwright")

_datasets = itertools.count()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start vLLM run in one worker, one after the other: two engines at a time would wait for each other."""
    for item in items:
        if item.get_closest_marker("vllm") or "engine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.xdist_group("vllm"))


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
