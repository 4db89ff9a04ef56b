"""The model store: a reader sees a whole version or none, whatever is killed, and damage never passes `verify`."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.manifest import Manifest
from shared.model_store import MANIFEST, BrokenVersion, ModelStore, NoVersion
from tests.support import publisher
from tests.support.publisher import card, write_model

ROOT = Path(__file__).resolve().parents[2]
PROBE = [[0.0, 1.0]] * 4


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def publish(store: ModelStore, round_number: int, salt: bytes = b"") -> Manifest:
    return store.manifest(publisher.publish(store, round_number, salt))


def test_an_empty_store_has_nothing_and_makes_nothing(store: ModelStore) -> None:
    assert store.current() is None
    assert store.previous() is None
    assert store.versions() == []
    with pytest.raises(NoVersion, match="there is no version 'current'; published: none yet"):
        store.resolve("current")
    assert not store.root.exists()


def test_a_published_version_is_current_whole_and_read_only(store: ModelStore) -> None:
    manifest = publish(store, 0)
    assert store.current() == manifest.id == store.resolve("current")
    assert store.verify(manifest.id) == manifest == store.manifest("current")
    assert manifest.id.startswith("r000000-")
    assert sorted(manifest.files) == ["0_Pooling/config.json", "model.safetensors", "modules.json"]
    assert manifest.files["model.safetensors"].size == 200_000
    assert manifest.probe == PROBE
    for path in store.path(manifest.id).rglob("*"):
        assert path.is_dir() or path.stat().st_mode & 0o222 == 0


def test_versions_are_listed_by_round_and_the_one_before_is_remembered(store: ModelStore) -> None:
    first, second, third = (publish(store, number) for number in (0, 1, 2))
    assert [manifest.id for manifest in store.versions()] == [first.id, second.id, third.id]
    assert (store.current(), store.previous()) == (third.id, second.id)


def test_rollback_and_promotion_are_the_same_step(store: ModelStore) -> None:
    first, second = publish(store, 0), publish(store, 1)
    store.activate("previous")
    assert (store.current(), store.previous()) == (first.id, second.id)
    store.activate(second.id)
    assert (store.current(), store.previous()) == (second.id, first.id)
    store.activate("current")
    assert (store.current(), store.previous()) == (second.id, first.id)


def test_publishing_the_same_round_again_after_a_crash_changes_nothing(store: ModelStore) -> None:
    first = publish(store, 1, salt=b"the same weights")
    again = publish(store, 1, salt=b"the same weights")
    assert again.id == first.id
    assert [manifest.id for manifest in store.versions()] == [first.id]
    assert store.verify(first.id)
    assert publish(store, 1, salt=b"other weights").id != first.id


def test_a_staged_folder_that_is_not_published_is_removed(store: ModelStore) -> None:
    with store.staging() as staged:
        write_model(staged)
    assert list(store.root.iterdir()) == []
    (store.root / ".staging-dead").mkdir()
    (store.root / ".trash-dead").mkdir()
    with store.staging():
        assert len(list(store.root.iterdir())) == 1, "what the dead left is swept"


@pytest.mark.parametrize("name", ["r000001-00000000", "nonsense", "../../etc", "", "r000000-", "."])
def test_an_unknown_version_is_told_with_those_that_exist(store: ModelStore, name: str) -> None:
    published = publish(store, 0)
    for use in (store.resolve, store.path, store.manifest, store.verify, store.activate):
        with pytest.raises(NoVersion) as raised:
            use(name)
        assert str(raised.value) == f"there is no version {name!r}; published: {published.id}"
    assert store.current() == published.id


@pytest.mark.parametrize("pointer", ["", "garbage", "../../etc\n"])
def test_a_pointer_that_is_no_id_counts_as_none(store: ModelStore, pointer: str) -> None:
    publish(store, 0)
    (store.root / "current").write_text(pointer)
    assert store.current() is None


def flip_a_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def truncate(folder: Path) -> None:
    (folder / "model.safetensors").chmod(0o644)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100)


def link(folder: Path) -> None:
    (folder / "modules.json").rename(folder.parent / "elsewhere.json")
    (folder / "modules.json").symlink_to(folder.parent / "elsewhere.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "model.safetensors was changed after publication"),
        (truncate, "model.safetensors was changed after publication"),
        (lambda folder: (folder / "modules.json").unlink(), "modules.json is missing"),
        (lambda folder: shutil.rmtree(folder / "0_Pooling"), "0_Pooling/config.json is missing"),
        (lambda folder: (folder / "extra.json").touch(), "extra.json is not in the manifest"),
        (lambda folder: (folder / "modeling.py").touch(), "modeling.py: links, pickles and code don't belong"),
        (link, "modules.json: links, pickles and code don't belong"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json: FileNotFoundError"),
        (lambda folder: truncate_manifest(folder), "manifest.json: ValidationError"),
    ],
)
def test_damage_is_found_and_named(store: ModelStore, damage: Callable[[Path], object], message: str) -> None:
    manifest = publish(store, 0)
    damage(store.path(manifest.id))
    with pytest.raises(BrokenVersion) as raised:
        store.verify(manifest.id)
    assert message in str(raised.value)


def truncate_manifest(folder: Path) -> None:
    (folder / MANIFEST).chmod(0o644)
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:200])


def test_a_version_with_a_broken_manifest_is_not_listed_nor_activated(store: ModelStore) -> None:
    first, second = publish(store, 0), publish(store, 1)
    truncate_manifest(store.path(first.id))
    assert [manifest.id for manifest in store.versions()] == [second.id]
    with pytest.raises(BrokenVersion):
        store.activate(first.id)
    assert store.current() == second.id


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "state.pkl", "0_Pooling/code.py"])
def test_pickles_and_code_cannot_be_published(store: ModelStore, name: str) -> None:
    with store.staging() as staged:
        write_model(staged)
        (staged / name).write_bytes(b"x")
        with pytest.raises(BrokenVersion, match=f"{name}: links, pickles and code"):
            store.publish(staged, card(0), PROBE)
    assert store.current() is None
    assert store.versions() == []


@pytest.mark.slow
def test_a_publisher_killed_at_any_moment_never_leaves_a_version_that_is_not_whole(store: ModelStore) -> None:
    """One kill before each operation on the file system that a publication makes, in turn."""
    publish(store, 0)
    kills = 0
    command = [sys.executable, "-m", "tests.support.publisher", str(store.root)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while process.stdout.readline() == "killed\n":
            kills += 1
            visible = {folder.name for folder in (store.root / "versions").iterdir()}
            for version in visible:
                store.verify(version)
            assert {store.current(), store.previous()} - {None} <= visible
            assert store.current() is not None
            process.stdin.write("\n")
    assert process.returncode == 0
    assert kills > 20
    assert store.current() == store.versions()[-1].id
    assert sorted(path.name for path in store.root.iterdir()) == [".lock", "current", "previous", "versions"]


def reject(store: ModelStore, round_number: int) -> Manifest:
    with store.staging() as staged:
        write_model(staged)
        return store.reject(staged, card(round_number), PROBE, "worse by far")


def test_a_rejected_candidate_is_kept_with_its_reason_and_is_no_version(store: ModelStore) -> None:
    published, rejected = publish(store, 1), reject(store, 2)
    assert rejected.rejection == "worse by far"
    assert store.rejected() == [rejected]
    assert store.versions() == [published]
    assert (store.current(), store.previous()) == (published.id, None)
    for use in (store.resolve, store.path, store.manifest, store.verify, store.activate):
        with pytest.raises(NoVersion):
            use(rejected.id)
    assert (store.rejected_path(rejected.id) / "model.safetensors").is_file()


def test_a_rejected_candidate_can_be_admitted(store: ModelStore) -> None:
    publish(store, 1)
    rejected = reject(store, 2)
    assert store.admit(rejected.id).id == rejected.id
    store.activate(rejected.id)
    assert store.current() == rejected.id
    with pytest.raises(NoVersion):
        store.admit(rejected.id)


def test_the_current_version_is_not_deleted_and_others_are(store: ModelStore) -> None:
    first, second, third = (publish(store, number) for number in (1, 2, 3))
    with pytest.raises(ValueError, match="current version"):
        store.delete(third.id)
    store.delete("previous")
    assert store.previous() is None
    assert store.versions() == [first, third]
    store.delete(reject(store, 4).id)
    assert store.rejected() == []
    for name in (second.id, "..", "../versions", ""):
        with pytest.raises(NoVersion):
            store.delete(name)


def test_what_was_told_of_a_run_does_not_change_a_version_s_id(store: ModelStore) -> None:
    ids = set()
    for seconds in (1.0, 2.0):
        with store.staging() as staged:
            write_model(staged, salt=b"the same weights")
            (staged / "report").mkdir()
            (staged / "report" / "report.md").write_text(f"It took {seconds} s.")
            (staged / "README.md").write_text(f"{seconds}")
            its = card(1).model_copy(update={"training": {"seconds": seconds}, "epoch": int(seconds), "parent": "x"})
            ids.add(store.publish(staged, its, PROBE).id)
    assert len(ids) == 1
    store.verify(ids.pop())


def test_a_pinned_version_stays_current_until_it_is_unpinned(store: ModelStore) -> None:
    first = publish(store, 1).id
    store.pin("current")
    second = publish(store, 2).id
    assert (store.current(), store.pinned()) == (first, first)
    store.promote(second)
    assert store.current() == first
    store.activate(second)
    assert (store.current(), store.previous(), store.pinned()) == (second, first, second), "a person's word moves it"
    store.pin("previous")
    assert (store.current(), store.pinned()) == (first, first)
    with pytest.raises(ValueError, match="activate another one first"):
        store.delete(first)
    store.unpin()
    store.unpin()
    assert (store.current(), store.pinned()) == (first, None)
    third = publish(store, 3).id
    assert store.current() == third
    with pytest.raises(NoVersion):
        store.pin("r000009-00000000")
    assert store.pinned() is None
