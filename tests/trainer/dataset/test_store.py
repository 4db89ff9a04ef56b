"""The dataset: unique, durable, and rounds whose rows never change."""

import hashlib
import sqlite3
from operator import attrgetter
from pathlib import Path

import pytest

from services.trainer.dataset.store import FILE, Dataset, Round, State, lock, open_dataset
from shared.errors import Fatal
from shared.pairs import Pair
from tests.support.pairs import make_pairs, plan, records


def kept(dataset: Dataset, round_: Round) -> list[Pair]:
    return [Pair(sentence1=one.sentence1, sentence2=one.sentence2, score=one.score) for one in dataset.pairs(round_)]


def test_a_pair_is_kept_once_whatever_its_order_and_its_first_score_stays(pairs_dataset: Dataset) -> None:
    pair = make_pairs(1)[0]
    turned = pair.model_copy(update={"sentence1": pair.sentence2, "sentence2": pair.sentence1, "score": 0.25})
    assert pairs_dataset.add(records([pair])) == 1
    assert pairs_dataset.add(records([pair, turned])) == 0
    assert kept(pairs_dataset, plan(pairs_dataset, 1, "base")) == [pair]


def test_a_round_has_everything_up_to_its_plan_and_nothing_later(pairs_dataset: Dataset) -> None:
    pairs = make_pairs(30)
    pairs_dataset.add(records(pairs[:20]))
    first = plan(pairs_dataset, 1, "base")
    pairs_dataset.add(records(pairs[20:]))
    second = plan(pairs_dataset, 1, "base")
    assert (first.id, first.pairs, second.id, second.pairs) == (1, 20, 2, 30)
    order = attrgetter("sentence1", "sentence2")
    assert kept(pairs_dataset, first) == sorted(pairs[:20], key=order)
    assert kept(pairs_dataset, second) == sorted(pairs, key=order)
    assert pairs_dataset.count_new() == 0


def test_the_dataset_hash_is_that_of_the_sorted_hashes_and_scores(tmp_path: Path) -> None:
    pairs = make_pairs(20)
    lines = sorted(f"{pair.content_hash} {pair.score!r}\n" for pair in pairs)
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    for folder, order in (("one", pairs), ("two", pairs[::-1])):
        with open_dataset(tmp_path / folder) as dataset:
            dataset.add(records(order))
            assert plan(dataset, 1, "base").dataset_hash == expected


def test_rounds_go_through_their_states(pairs_dataset: Dataset) -> None:
    base = pairs_dataset.plan_base(1, "base")
    assert (base.id, base.state, base.pairs, base.dataset_hash) == (0, State.PLANNED, 0, None)
    pairs_dataset.begin(0)
    assert pairs_dataset.unfinished() == pairs_dataset.round(0)
    pairs_dataset.finish(0, "r000000-00000000")
    assert pairs_dataset.unfinished() is None
    pairs_dataset.add(records(make_pairs(3)))
    plan(pairs_dataset, 1, "base")
    assert [pairs_dataset.count_failure(1, f"reason {number}") for number in (1, 2)] == [1, 2]
    pairs_dataset.fail(1)
    failed = pairs_dataset.round(1)
    assert (failed.state, failed.reason, failed.version) == (State.FAILED, "reason 2", None)
    assert pairs_dataset.unfinished() is None


def test_a_batch_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with open_dataset(tmp_path) as dataset:
        dataset.add(records(make_pairs(2)))
    with open_dataset(tmp_path, read_only=True) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.add(records(make_pairs(9)))
    with open_dataset(tmp_path) as dataset:
        assert dataset.count() == 2


def test_commits_are_synced_to_disk(tmp_path: Path) -> None:
    with open_dataset(tmp_path) as dataset:
        assert dataset._db.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert dataset._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_file_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"something else" * 100)
    with (
        pytest.raises(Fatal, match=r"can't use the dataset .*pairs\.sqlite: file is not a database"),
        open_dataset(tmp_path),
    ):
        pass


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with open_dataset(tmp_path) as dataset:
        dataset._db.execute("PRAGMA user_version = 99")
    with pytest.raises(Fatal, match="newer Pairwright"), open_dataset(tmp_path):
        pass


def test_one_trainer_a_dataset(tmp_path: Path) -> None:
    with lock(tmp_path) as first, lock(tmp_path) as second:
        assert first
        assert not second
    with lock(tmp_path) as next_one:
        assert next_one
