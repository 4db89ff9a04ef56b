"""The cosines that a round leaves behind: of the current version, for the newest pairs, in bounded time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.trainer.dataset.browsing import PairFilter
from services.trainer.dataset.store import Dataset, open_dataset
from services.trainer.models import encoder
from services.trainer.publishing import cosines
from services.trainer.publishing.cosines import keep_cosines
from tests.support.pairs import make_pairs, plan, records
from tests.support.trainer_homes import Home


def surprising(dataset: Dataset) -> list[Any]:
    return dataset.page(PairFilter(), "surprise", 1000).pairs


def expected(home: Home, version: str, pair: Any) -> float:
    model = encoder.load(str(home.store.path(version)), "test")
    one, other = encoder.encode(model, [pair.sentence1, pair.sentence2])
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.slow
def test_a_round_leaves_the_current_version_s_cosines(home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(90)))
    manifest = home.published(home.run(plan(home.dataset, 1, static_student), max_steps=5))
    found = surprising(home.dataset)
    assert len(found) == 90
    assert home.dataset.cosine_version() == manifest.id
    distances = [abs(pair.cosine - pair.score) for pair in found]
    assert distances == sorted(distances, reverse=True)
    assert found[0].cosine == pytest.approx(expected(home, manifest.id, found[0]), abs=1e-5)
    # Where another version stays current, those are its cosines, for the new pairs too.
    home.dataset.finish(1, manifest.id)
    home.store.pin(manifest.id)
    home.dataset.add(records(make_pairs(120)[90:]))
    told = home.run(plan(home.dataset, 1, static_student), max_steps=5)
    assert told[-1].version != manifest.id
    assert home.dataset.cosine_version() == home.store.current() == manifest.id
    newest = next(pair for pair in surprising(home.dataset) if pair.id == 120)
    assert newest.cosine == pytest.approx(expected(home, manifest.id, newest), abs=1e-5)


def test_the_newest_pairs_come_first_and_time_is_bounded(
    home: Home, static_student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cosines, "PORTION", 10)
    home.dataset.add(records(make_pairs(40)))
    folder, encode = home.settings.dataset_dir, partial_encode(static_student)
    assert keep_cosines(home.dataset, folder, "r000001-00000000", encode, most_s=0.0) == 0
    monkeypatch.setattr(cosines, "MOST_PAIRS", 25)
    assert keep_cosines(home.dataset, folder, "r000001-00000000", encode) == 25
    assert sorted(pair.id for pair in surprising(home.dataset)) == list(range(16, 41))


def test_a_dataset_that_cannot_be_written_is_no_fault_of_the_round(
    home: Home, static_student: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home.dataset.add(records(make_pairs(4)))
    (tmp_path / "file").write_text("in the way")
    encode = partial_encode(static_student)
    with open_dataset(home.settings.dataset_dir, read_only=True) as reading:
        assert keep_cosines(reading, tmp_path / "file", "r000001-00000000", encode) == 0
    assert "are not kept" in caplog.text


def partial_encode(student: Path) -> Any:
    model = encoder.load(str(student), "test")
    return lambda texts: encoder.encode(model, texts)
