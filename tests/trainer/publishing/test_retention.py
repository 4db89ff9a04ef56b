"""The store over months: damage that is repaired, and what is kept."""

import shutil
from pathlib import Path

import pytest

from services.trainer.publishing.retention import repair, retain
from shared.manifest import Estimate
from shared.model_store import ModelStore
from tests.support.publisher import card, write_model


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path)


def publish(store: ModelStore, round_: int, estimate: float = 50.0, reject: bool = False) -> str:
    with store.staging() as staged:
        write_model(staged)
        value = Estimate(value=estimate, low=estimate - 1, high=estimate + 1)
        its = card(round_).model_copy(update={"estimates": {"candidate": {"grouping": value}}})
        return (store.reject(staged, its, [], "worse") if reject else store.publish(staged, its, [])).id


def damage(store: ModelStore, version: str) -> None:
    file = store.path(version) / "model.safetensors"
    file.chmod(0o644)
    file.write_bytes(b"damaged")


def test_nothing_wrong_is_nothing_done(store: ModelStore) -> None:
    assert repair(store) is None
    version = publish(store, 1)
    assert repair(store) is None
    assert store.current() == version


def test_a_damaged_current_version_gives_way_to_the_newest_sound_one(store: ModelStore) -> None:
    first, second, third = (publish(store, number) for number in (1, 2, 3))
    damage(store, third)
    damage(store, second)
    told = repair(store)
    assert told == f"{third}: model.safetensors was changed after publication; {first} is current again"
    assert store.current() == first
    assert (store.root / ".quarantine" / third).is_dir()
    assert repair(store) is None


def test_a_pin_ends_with_its_version(store: ModelStore) -> None:
    first, second = publish(store, 1), publish(store, 2)
    store.pin(second)
    third = publish(store, 3)
    damage(store, second)
    assert f"{first} is current again" in str(repair(store))
    assert store.pinned() is None
    assert publish(store, 4) == store.current() != third


def test_a_current_version_that_is_gone_gives_way_too(store: ModelStore) -> None:
    first, second = publish(store, 1), publish(store, 2)
    shutil.rmtree(store.root / "versions" / second)
    assert f"{first} is current again" in str(repair(store))
    shutil.rmtree(store.root / "versions" / first)
    assert "no sound version is left" in str(repair(store))


def test_current_previous_best_and_the_last_are_kept(store: ModelStore) -> None:
    ids = [publish(store, number, estimate=90 if number == 2 else number) for number in range(1, 10)]
    rejected = [publish(store, number, reject=True) for number in range(10, 14)]
    store.activate(ids[3])  # rolled back: current is an old one now, previous the newest
    gone = retain(store, newest=2)
    kept = [manifest.id for manifest in store.versions()]
    assert kept == [ids[1], ids[3], ids[7], ids[8]]
    assert [manifest.id for manifest in store.rejected()] == rejected[2:]
    assert sorted(gone) == sorted({*ids, *rejected} - {*kept, *rejected[2:]})
    assert not list(store.root.glob(".trash-*"))
    assert retain(store, newest=2) == []
