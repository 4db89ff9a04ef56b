"""Real parts for the trainer's tests: tiny students, a dataset, and the worker as a process of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.trainer.dataset import Dataset, open_dataset
from shared.queue import EmbeddedServer
from tests.trainer.live import LiveTrainer
from tests.trainer.students import write_encoder, write_static

Start = Callable[..., LiveTrainer]


@pytest.fixture(scope="session")
def static_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static")
    write_static(folder)
    return folder


@pytest.fixture(scope="session")
def plain_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    write_encoder(folder)
    return folder


@pytest.fixture
def pairs_dataset(tmp_path: Path) -> Iterator[Dataset]:
    with open_dataset(tmp_path / "dataset") as dataset:
        yield dataset


@pytest.fixture
def start(tmp_path: Path, own_server: EmbeddedServer, static_student: Path) -> Iterator[Start]:
    """Start a trainer process on the test's own home and queue; it is killed afterwards if it still runs."""
    running: list[LiveTrainer] = []

    def _start(**settings: object) -> LiveTrainer:
        trainer = LiveTrainer(tmp_path / "home", own_server.url, static_student, settings)
        running.append(trainer)
        return trainer

    yield _start
    for trainer in running:
        trainer.kill()
