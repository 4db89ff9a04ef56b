"""The dataset: unique, durable, and rounds whose rows never change."""

import hashlib
import sqlite3
from operator import attrgetter
from pathlib import Path

import pytest

from services.trainer.dataset.pair_rows import Selection
from services.trainer.dataset.schema import CHANGES, TABLES, TRACES
from services.trainer.dataset.store import FILE, Dataset, Round, State, lock, open_dataset
from shared.errors import Fatal
from shared.pairs import Pair
from tests.support.documents import make_document
from tests.support.pairs import make_pairs, plan, records


def kept(dataset: Dataset, round_: Round) -> list[Pair]:
    return [Pair(sentence1=one.sentence1, sentence2=one.sentence2, score=one.score) for one in dataset.pairs(round_)]


def test_a_pair_is_kept_once_whatever_its_order_and_the_later_score_stays(pairs_dataset: Dataset) -> None:
    pair = make_pairs(1)[0]
    turned = pair.model_copy(update={"sentence1": pair.sentence2, "sentence2": pair.sentence1})
    rescored = turned.model_copy(update={"score": 0.25})
    assert pairs_dataset.add(records([pair])) == (1, 0)
    assert pairs_dataset.add(records([pair, turned])) == (0, 0)
    assert kept(pairs_dataset, plan(pairs_dataset, 1, "base")) == [pair]
    assert pairs_dataset.add(records([rescored, pair, rescored])) == (0, 3)
    assert kept(pairs_dataset, plan(pairs_dataset, 1, "base")) == [rescored]
    assert (pairs_dataset.count(), pairs_dataset.count_new()) == (1, 0)


def test_of_two_scores_the_one_that_came_later_stays_however_often_both_are_delivered(pairs_dataset: Dataset) -> None:
    first = make_pairs(1)[0]
    second = first.model_copy(update={"score": 0.25})
    assert pairs_dataset.add(records([first, second]), times=[10.0, 11.0]) == (1, 1)
    assert pairs_dataset.add(records([first, second]), times=[10.0, 11.0]) == (0, 0)
    assert kept(pairs_dataset, plan(pairs_dataset, 1, "base")) == [second]
    # An import comes now, though the queue's clock may be ahead of ours.
    third, ahead = first.model_copy(update={"score": 0.5}), 2.0**40
    pairs_dataset.add(records([first]), times=[ahead])
    assert pairs_dataset.add(records([third])) == (0, 1)
    assert pairs_dataset.add(records([second]), times=[ahead - 1]) == (0, 0)
    assert kept(pairs_dataset, plan(pairs_dataset, 1, "base")) == [third]


def test_what_is_removed_or_rescored_stays_in_a_round_that_is_under_way(pairs_dataset: Dataset) -> None:
    pairs = make_pairs(20)
    pairs_dataset.add(records(pairs))
    first = plan(pairs_dataset, 1, "base")
    before, origins = kept(pairs_dataset, first), pairs_dataset.origins(first)
    rescored = pairs[0].model_copy(update={"score": 0.125})
    assert pairs_dataset.add(records([rescored])) == (0, 1)
    removed = pairs_dataset.remove(pairs_dataset.find(Selection(text=pairs[-1].sentence2)))
    assert removed == [pairs[-1].content_hash]
    assert (pairs_dataset.count(), pairs_dataset.count_new()) == (19, 1)
    assert kept(pairs_dataset, first) == before
    assert pairs_dataset.hash(first) == first.dataset_hash
    assert pairs_dataset.origins(first) == origins
    pairs_dataset.finish(first.id, "r000001-00000000")

    second = plan(pairs_dataset, 1, "base")
    expected = sorted([rescored, *pairs[1:-1]], key=attrgetter("sentence1", "sentence2"))
    assert kept(pairs_dataset, second) == expected
    assert (second.pairs, second.dataset_hash) == (19, pairs_dataset.hash())
    assert second.dataset_hash != first.dataset_hash
    assert pairs_dataset.count_after(second, first.last_pair) == 1, "a warm start takes the new score"
    assert pairs_dataset._db.execute("SELECT count(*) FROM removed_pair").fetchone()[0] == 0


def test_no_pair_gets_the_id_of_one_that_was_removed(pairs_dataset: Dataset) -> None:
    pairs = make_pairs(6)
    pairs_dataset.add(records(pairs[:3]))
    first = plan(pairs_dataset, 1, "base")
    assert len(pairs_dataset.remove([2, 3, 3, 7])) == 2
    assert pairs_dataset.add(records(pairs[3:])) == (3, 0)
    assert len(kept(pairs_dataset, first)) == 3
    assert (pairs_dataset.count(), pairs_dataset.count_new()) == (4, 3)
    assert len(pairs_dataset.remove([4])) == 1
    assert (pairs_dataset.count(), pairs_dataset.count_new()) == (3, 2)


def test_pairs_are_selected_by_all_that_is_given(pairs_dataset: Dataset) -> None:
    pairs = make_pairs(9)
    for number, record in enumerate(records(pairs)):
        origin = record.provenance.model_copy(update={"job": f"job{number % 3}", "label": f"{record.pair.score:g}"})
        pairs_dataset.add([record.model_copy(update={"provenance": origin})])
    assert pairs_dataset.find(Selection(job="job1")) == [2, 5, 8]
    assert pairs_dataset.find(Selection(job="job1"), after=2, most=1) == [5]
    assert pairs_dataset.find(Selection(label="0.5", score=0.5, task="sts")) == [2, 5, 8]
    assert pairs_dataset.find(Selection(label="0.5", score=1)) == []
    assert pairs_dataset.find(Selection(text=pairs[4].sentence2[3:])) == [5]
    assert pairs_dataset.find(Selection(text="%")) == []
    assert pairs_dataset.count_selected(Selection(task="sts")) == 9
    assert not Selection()
    assert Selection(score=0.0)


def test_a_file_of_schema_3_is_renewed_with_its_pairs_and_rounds(tmp_path: Path) -> None:
    pairs, file = make_pairs(8), tmp_path / FILE
    with sqlite3.connect(file) as old:
        old.executescript(f"{TABLES} {TRACES} INSERT INTO fact VALUES ('id', 'name'); PRAGMA user_version = 3;")
        for number, record in enumerate(records(pairs), start=1):
            one, origin = record.pair, record.provenance.model_dump_json()
            row = (number, bytes.fromhex(one.content_hash), one.sentence1, one.sentence2, one.score, origin, 5.0)
            old.execute("INSERT INTO pair VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        old.execute("INSERT INTO round (state, pairs, seed, base) VALUES ('training', 6, 1, 'base')")
    old.close()
    with open_dataset(tmp_path) as dataset:
        round_ = dataset.round(1)
        assert (round_.pairs, round_.last_pair, dataset.id) == (6, 6, "name")
        assert (dataset.count(), dataset.count_new()) == (8, 2)
        assert dataset.add(records(pairs)) == (0, 0)
        dataset.remove([1, 8])
        assert (dataset.count(), dataset.count_new()) == (6, 1)
        assert len(kept(dataset, round_)) == 6
        assert dataset.add(records([make_pairs(9)[-1]])) == (1, 0)
        assert [one.id for one in dataset.pairs(plan(dataset, 1, "base"))].count(9) == 1
        assert dataset.corpus_size() == (0, 0, 0)
        assert dataset.add_documents([make_document("a", "One.")]).new == 1


def test_a_file_of_schema_4_is_renewed_as_it_is(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as old:
        named = "INSERT INTO fact VALUES ('id', 'name'); PRAGMA user_version = 4;"
        old.executescript(f"{TABLES} {TRACES} {CHANGES} {named}")
    old.close()
    with pytest.raises(Fatal, match="start the trainer once"), open_dataset(tmp_path, read_only=True):
        pass
    with open_dataset(tmp_path) as dataset:
        dataset.add(records(make_pairs(8)))
        assert (dataset.id, dataset.count(), dataset.count_new()) == ("name", 8, 8)
        assert dataset.add_documents([make_document("a", "One.")]).new == 1


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
