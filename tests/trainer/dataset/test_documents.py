"""The corpus: passages once, documents replaced and deleted, and the queries that go with them."""

import sqlite3
from pathlib import Path

import pytest

from services.trainer.commands.dataset import stats
from services.trainer.dataset.document_rows import QUERIES_OF, DocumentSelection
from services.trainer.dataset.store import Dataset, open_dataset
from shared.pairs import PairRecord
from tests.support.documents import make_document, retrieval
from tests.support.pairs import make_pairs, plan, records

POOL, TOWELS, BREAKFAST = "The pool is closed.", "Towels are free.", "Breakfast is at eight."


def contents(dataset: Dataset) -> list[str]:
    return [one.content for one in dataset.passages()]


def queries(dataset: Dataset) -> list[str]:
    return [record.pair.sentence1 for record, _ in dataset.records()]


def test_a_passage_is_kept_once_and_counted_wherever_else_it_is(pairs_dataset: Dataset) -> None:
    first, second = make_document("a", POOL, TOWELS, POOL), make_document("b", TOWELS, BREAKFAST)
    added = pairs_dataset.add_documents([first, second])
    assert (added.new, added.replaced, added.pairs) == (2, 0, [])
    assert pairs_dataset.corpus_size() == (2, 3, 2)
    assert pairs_dataset.count_passages() == 3
    assert {"documents": 2, "passages": 3, "duplicates": 2}.items() <= stats(pairs_dataset).items()
    assert [(one.document, one.text) for one in pairs_dataset.passages()] == [
        ("a", POOL),
        ("a", TOWELS),
        ("b", BREAKFAST),
    ]
    again = pairs_dataset.add_documents([first, second])
    assert (again.changed, pairs_dataset.corpus_size()) == (0, (2, 3, 2))
    titled = make_document("c", POOL, title="Hotel")
    pairs_dataset.add_documents([titled])
    assert contents(pairs_dataset)[-1] == f"Hotel {POOL}", "its title makes it another passage"


def test_passages_are_read_in_pages_and_no_id_comes_twice(pairs_dataset: Dataset) -> None:
    pairs_dataset.add_documents([make_document(str(number), f"Room {number}.") for number in range(5)])
    assert [one.id for one in pairs_dataset.passages(after=1, most=2)] == [2, 3]
    pairs_dataset.remove_documents([5])
    pairs_dataset.add_documents([make_document("new", "Room 9.")])
    assert [one.id for one in pairs_dataset.passages(after=3)] == [4, 6]


def test_a_changed_document_takes_the_place_of_the_older_one(pairs_dataset: Dataset) -> None:
    pairs_dataset.add_documents([make_document("a", POOL, TOWELS)], [10.0])
    before = {one.text: one.id for one in pairs_dataset.passages()}
    added = pairs_dataset.add_documents([make_document("a", TOWELS, BREAKFAST)], [11.0])
    assert (added.new, added.replaced) == (0, 1)
    assert contents(pairs_dataset) == [TOWELS, BREAKFAST]
    assert next(pairs_dataset.passages()).id == before[TOWELS], "what has not changed keeps its id"
    late = pairs_dataset.add_documents([make_document("a", POOL, TOWELS)], [10.0])
    assert (late.changed, contents(pairs_dataset)) == (0, [TOWELS, BREAKFAST])
    assert pairs_dataset.corpus_size() == (1, 2, 0)


def test_a_document_that_goes_takes_the_queries_of_its_own_passages_with_it(pairs_dataset: Dataset) -> None:
    hotel, house = make_document("a", POOL, TOWELS, title="Hotel"), make_document("b", TOWELS, title="Hotel")
    pairs_dataset.add_documents([hotel, house, make_document("c", BREAKFAST)])
    written = [retrieval("is the pool open", f"Hotel {POOL}"), retrieval("towels", f"Hotel {TOWELS}")]
    pairs_dataset.add([*written, retrieval("breakfast", BREAKFAST), *records(make_pairs(3))])
    other_task = PairRecord(
        pair=written[0].pair.model_copy(update={"sentence1": "The pool can't be used."}),
        provenance=written[0].provenance.model_copy(update={"task": "sts"}),
    )
    pairs_dataset.add([other_task])
    round_ = plan(pairs_dataset, 1, "base")

    names, pairs = pairs_dataset.remove_documents(pairs_dataset.find_documents(DocumentSelection(id="a")))
    assert (names, pairs) == (["a"], [written[0].pair.content_hash])
    assert contents(pairs_dataset) == [f"Hotel {TOWELS}", BREAKFAST]
    assert pairs_dataset.corpus_size() == (2, 2, 0)
    assert {"towels", "breakfast", "The pool can't be used."} <= set(queries(pairs_dataset))
    assert "is the pool open" not in queries(pairs_dataset)
    assert pairs_dataset.count() == 6
    assert "is the pool open" in [query for query, _ in pairs_dataset.queries(round_)], "it is under way"
    assert pairs_dataset.remove_documents([1]) == ([], [])


def test_a_change_takes_the_queries_of_what_is_gone_and_leaves_the_others(pairs_dataset: Dataset) -> None:
    pairs_dataset.add_documents([make_document("a", POOL, TOWELS)])
    gone = retrieval("is the pool open", POOL)
    pairs_dataset.add([gone, retrieval("towels", TOWELS)])
    added = pairs_dataset.add_documents([make_document("a", TOWELS)])
    assert added.pairs == [gone.pair.content_hash]
    assert queries(pairs_dataset) == ["towels"]


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (DocumentSelection(id="a"), ["a"]),
        (DocumentSelection(source="one.md"), ["a", "b"]),
        (DocumentSelection(text="pool"), ["a", "c"]),
        (DocumentSelection(text="Spa"), ["c"]),
        (DocumentSelection(source="one.md", text="pool"), ["a"]),
        (DocumentSelection(text="%"), []),
    ],
)
def test_documents_are_selected_by_all_that_is_given(
    pairs_dataset: Dataset, selection: DocumentSelection, names: list[str]
) -> None:
    one, two = make_document("a", POOL, source="one.md"), make_document("b", TOWELS, source="one.md")
    pairs_dataset.add_documents([one, two, make_document("c", "Every pool.", source="two.md", title="Spa")])
    assert pairs_dataset.count_selected_documents(selection) == len(names)
    assert pairs_dataset.remove_documents(pairs_dataset.find_documents(selection))[0] == names


def test_a_passage_s_queries_are_found_without_reading_all_pairs(pairs_dataset: Dataset) -> None:
    [step] = pairs_dataset._db.execute(f"EXPLAIN QUERY PLAN {QUERIES_OF}", ("x",)).fetchall()
    assert "INDEX pair_passage (sentence2=?)" in step["detail"]


def test_a_batch_that_fails_in_the_middle_leaves_nothing_of_it(tmp_path: Path) -> None:
    with open_dataset(tmp_path) as dataset:
        dataset._db.execute(
            "CREATE TEMP TRIGGER refuse BEFORE INSERT ON passage WHEN NEW.text = 'refused'"
            " BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
        with pytest.raises(sqlite3.IntegrityError, match="not this one"):
            dataset.add_documents([make_document("a", POOL), make_document("b", TOWELS, "refused")])
        assert dataset.corpus_size() == (0, 0, 0)
    with open_dataset(tmp_path) as dataset:
        assert (contents(dataset), dataset.add_documents([make_document("a", POOL)]).new) == ([], 1)
