"""Real parts for the embedding tests: published students, and the service on a free port."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from shared.model_store import ModelStore
from tests.support.embedding import LiveService
from tests.support.versions import publish, static_student, transformer_student

Start = Callable[..., LiveService]


@pytest.fixture(scope="session")
def static_one() -> SentenceTransformer:
    return static_student(seed=1)


@pytest.fixture(scope="session")
def static_two() -> SentenceTransformer:
    return static_student(seed=2)


@pytest.fixture(scope="session")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return transformer_student(tmp_path_factory.mktemp("transformer"), seed=3)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """The empty store of the dataset `default` under the test's own home."""
    return ModelStore(tmp_path / "models" / "default")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start services on the test's home with settings of one's choice; they are stopped afterwards."""
    running: list[LiveService] = []

    def _start(ready: bool = True, **options: Any) -> LiveService:
        service = LiveService(tmp_path, **options)
        running.append(service)
        if ready:
            service.wait_until_ready()
        return service

    yield _start
    for service in running:
        service.stop()


@pytest.fixture
def own_service(store: ModelStore, static_one: SentenceTransformer, start: Start) -> LiveService:
    """The service with `static_one` as its only version, for a test that changes the store or counts."""
    publish(store, static_one, 0)
    return start()


def _shared_service(home: Path, student: SentenceTransformer) -> Iterator[LiveService]:
    publish(ModelStore(home / "models" / "default"), student, 0)
    service = LiveService(home, poll_seconds=1)
    service.wait_until_ready()
    yield service
    service.stop()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, static_one: SentenceTransformer) -> Iterator[LiveService]:
    """The service with `static_one` as its only version, for all tests that change nothing."""
    yield from _shared_service(tmp_path_factory.mktemp("static"), static_one)


@pytest.fixture(scope="session")
def transformer_service(
    tmp_path_factory: pytest.TempPathFactory, transformer: SentenceTransformer
) -> Iterator[LiveService]:
    """The service with the transformer, which reads 24 tokens, as its only version, for all that change nothing."""
    yield from _shared_service(tmp_path_factory.mktemp("transformer-home"), transformer)
