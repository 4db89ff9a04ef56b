"""Real parts for the trainer's tests: tiny students, a dataset, and the worker as a process of its own."""

import gzip
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from services.trainer.dataset.store import Dataset, open_dataset
from shared.queue import EmbeddedServer
from tests.support.pairs import make_pairs
from tests.support.students import write_encoder, write_static
from tests.support.trainer import LiveTrainer
from tests.support.trainer_homes import Home

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
    with open_dataset(tmp_path / "datasets" / "default") as dataset:
        yield dataset


@pytest.fixture
def home(tmp_path: Path, pairs_dataset: Dataset) -> Home:
    return Home(tmp_path, pairs_dataset)


@pytest.fixture
def start(tmp_path: Path, own_server: EmbeddedServer, static_student: Path) -> Iterator[Start]:
    """Start a trainer process on the test's own home and queue; it is killed afterwards if it still runs."""
    running: list[LiveTrainer] = []

    def _start(
        home: Path | None = None, student: Path | None = None, arguments: Sequence[str] = (), **settings: object
    ) -> LiveTrainer:
        home, student = home or tmp_path / "home", student or static_student
        trainer = LiveTrainer(home, own_server.url, student, settings, arguments)
        running.append(trainer)
        return trainer

    yield _start
    for trainer in running:
        trainer.kill()


@pytest.fixture
def sts(tmp_path: Path) -> Path:
    """Two STS files on a scale to 5, and one of another format."""
    folder = tmp_path / "sts"
    folder.mkdir()
    for name, seed in (("one.test", 1), ("two.dev", 2)):
        lines = [f"{5 * pair.score}\t{pair.sentence1}\t{pair.sentence2}\tmade" for pair in make_pairs(40, seed)]
        text = "\n".join(["score\tsentence1\tsentence2\tsubset", *lines, ""])
        (folder / f"{name}.tsv.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "other.tsv.gz").write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
    return folder
