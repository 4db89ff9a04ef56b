"""Pages of pairs: every pair once in every order, filters, what a person says of a pair, and counts that stay true."""

import sqlite3
from itertools import count
from pathlib import Path

import pytest

from services.trainer.dataset import browsing
from services.trainer.dataset.browsing import Order, PairFilter
from services.trainer.dataset.schema import CHANGES, DOCUMENTS, TABLES, TRACES
from services.trainer.dataset.store import FILE, Dataset, open_dataset
from shared.pairs import PairRecord
from tests.support.pairs import make_pairs, plan, records


def various(number: int) -> list[PairRecord]:
    """Pairs of three jobs, two tasks and three labels."""
    made = []
    for index, record in enumerate(records(make_pairs(number))):
        facts = {"job": f"job{index // 10}", "task": "sts" if index % 5 else "nli", "label": f"{record.pair.score:g}"}
        made.append(record.model_copy(update={"provenance": record.provenance.model_copy(update=facts)}))
    return made


def walk(dataset: Dataset, wanted: PairFilter, order: Order, most: int) -> list[int]:
    """The ids of all pages, one after the other."""
    ids, after = list[int](), None
    for _ in count():
        page = dataset.page(wanted, order, most, after)
        ids += [pair.id for pair in page.pairs]
        after = page.next
        if after is None:
            return ids
    raise AssertionError


@pytest.fixture
def thirty(pairs_dataset: Dataset) -> Dataset:
    pairs_dataset.add(various(30))
    return pairs_dataset


@pytest.mark.parametrize("most", [1, 7, 30, 100])
def test_every_pair_is_on_one_page_in_every_order(thirty: Dataset, most: int) -> None:
    surprises = {id_: (id_ * 7 % 13) / 13 for id_ in range(5, 25)}
    thirty.set_cosines("r000001-00000000", surprises.items())
    assert walk(thirty, PairFilter(), "newest", most) == list(range(30, 0, -1))
    assert walk(thirty, PairFilter(), "oldest", most) == list(range(1, 31))
    found = walk(thirty, PairFilter(), "surprise", most)
    pairs = {id_: thirty.browsed(id_) for id_ in found}
    distances = [abs((pair.cosine or 0) - pair.score) for pair in pairs.values() if pair]
    assert sorted(found) == sorted(surprises)
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("scanned", [3, 5_000])
@pytest.mark.parametrize("order", ["newest", "oldest", "surprise"])
def test_filters_hold_together_however_few_rows_a_page_may_scan(
    thirty: Dataset, order: Order, scanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "MOST_SCANNED", scanned)
    thirty.set_cosines("r000001-00000000", [(id_, 0.5) for id_ in range(1, 31)])
    thirty.review(4, checked=True)
    text = thirty.page(PairFilter(), "oldest", 1).pairs[0].sentence2[2:]
    for wanted in (
        PairFilter(job="job1"),
        PairFilter(job="job1", label="1"),
        PairFilter(task="nli", min_score=0.25, max_score=0.5),
        PairFilter(label="0.5", score=0.5),
        PairFilter(label="0.5", score=0.75),
        PairFilter(checked=True),
        PairFilter(checked=False, job="job0"),
        PairFilter(text=text),
        PairFilter(text=text.upper()),
        PairFilter(text="%"),
        PairFilter(job="none"),
    ):
        everything = [pair for pair in map(thirty.browsed, range(1, 31)) if pair]
        expected = [
            pair.id
            for pair in everything
            if all(getattr(pair, name) == value for name, value in vars(wanted).items()
                   if value is not None and name in ("job", "task", "label", "checked", "score"))
            and (wanted.min_score or 0) <= pair.score <= (wanted.max_score or 1)
            and (not wanted.text or wanted.text.lower() in f"{pair.sentence1}\n{pair.sentence2}".lower())
        ]  # fmt: skip
        assert sorted(walk(thirty, wanted, order, 2)) == expected, wanted


def test_another_score_is_another_id_and_is_in_the_next_round_only(thirty: Dataset) -> None:
    thirty.set_cosines("r000001-00000000", [(3, 0.75)])
    first = plan(thirty, 1, "base")
    before = thirty.hash(first)
    old = thirty.browsed(3)
    assert old is not None
    marked = thirty.review(3, checked=True)
    assert marked == old._replace(checked=True)
    assert thirty.count_new() == 0, "a mark changes nothing in training"
    changed = thirty.review(3, score=0.125)
    assert changed is not None
    assert changed == old._replace(id=31, score=0.125, checked=True, corrected=True, collected=changed.collected)
    assert [pair.id for pair in thirty.page(PairFilter(), "surprise", 5).pairs] == [31]
    assert thirty.review(3, score=0.5) is None
    assert thirty.browsed(3) is None
    assert (thirty.count(), thirty.count_new(), thirty.hash(first)) == (30, 1, before)
    assert any(pair.score == 0.125 for pair in thirty.pairs(plan(thirty, 1, "base")))


def test_what_a_person_said_outlasts_jobs_but_not_files(pairs_dataset: Dataset) -> None:
    [record, other] = records(make_pairs(2))
    pairs_dataset.add([record, other], times=[5.0, 5.0])
    pairs_dataset.review(1, score=0.25)
    pairs_dataset.review(2, checked=True)
    again = [one.model_copy(update={"pair": one.pair.model_copy(update={"score": 0.75})}) for one in (record, other)]
    assert pairs_dataset.add(again, times=[2.0**40, 2.0**40]) == (0, 0)
    assert [pair.score for pair in pairs_dataset.page(PairFilter(), "oldest", 9).pairs] == [other.pair.score, 0.25]
    assert pairs_dataset.add(again) == (0, 2)
    found = pairs_dataset.page(PairFilter(), "newest", 9).pairs
    assert [(pair.score, pair.corrected, pair.checked) for pair in found] == [(0.75, False, False)] * 2


def test_the_summary_counts_what_there_is(thirty: Dataset) -> None:
    thirty.review(1, score=0.75, checked=True)
    thirty.remove([30, 29, 28, 27, 26, 25, 24, 23, 22, 21])
    summary = thirty.summary()
    assert (summary.total, summary.new, summary.checked) == (20, 20, 1)
    assert summary.tasks == {"sts": 16, "nli": 4}
    assert sum(summary.labels.values()) == 20
    # The corrected pair came last.
    assert list(summary.jobs.items()) == [("job0", 10), ("job1", 10)]


def test_cosines_go_with_their_pairs(thirty: Dataset) -> None:
    assert thirty.set_cosines("r000001-00000000", [(1, 0.5), (2, 0.5), (99, 0.5)]) == 2
    thirty.remove([1])
    assert walk(thirty, PairFilter(), "surprise", 9) == [2]
    assert thirty.cosine_version() == "r000001-00000000"
    thirty.set_cosines("r000002-00000000", [])
    assert (walk(thirty, PairFilter(), "surprise", 9), thirty.cosine_version()) == ([], "r000002-00000000")


def test_a_file_of_schema_5_is_renewed_with_its_counts(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as old:
        named = "INSERT INTO fact VALUES ('id', 'name'); PRAGMA user_version = 5;"
        old.executescript(f"{TABLES} {TRACES} {CHANGES} {DOCUMENTS} {named}")
        for number, record in enumerate(various(30), start=1):
            one, origin = record.pair, record.provenance.model_dump_json()
            row = (number, bytes.fromhex(one.content_hash), one.sentence1, one.sentence2, one.score, origin, 5.0)
            old.execute("INSERT INTO pair VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        old.execute("UPDATE total SET pairs = 30, new_pairs = 30, last_pair = 30")
    old.close()
    with open_dataset(tmp_path) as dataset:
        assert dataset.summary().jobs == {"job2": 10, "job1": 10, "job0": 10}
        assert walk(dataset, PairFilter(job="job1"), "oldest", 3) == list(range(11, 21))
        assert dataset.add(various(33)) == (3, 0)
        assert dataset.summary().total == sum(dataset.summary().tasks.values()) == 33
