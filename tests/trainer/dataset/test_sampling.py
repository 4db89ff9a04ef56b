"""The sample of texts: different texts of both kinds, the same for a seed, whatever was deleted."""

import pytest

from services.trainer.dataset import sampling
from services.trainer.dataset.store import Dataset
from tests.support.documents import make_document
from tests.support.pairs import make_pairs, records


@pytest.fixture
def filled(pairs_dataset: Dataset) -> Dataset:
    pairs_dataset.add(records(make_pairs(60)))
    documents = [make_document(f"d{number}", f"Passage number {number}.") for number in range(40)]
    pairs_dataset.add_documents(documents)
    return pairs_dataset


def test_a_large_sample_is_everything_once(filled: Dataset) -> None:
    texts = filled.sample_texts(10_000, 0)
    assert len({one.text for one in texts}) == len(texts)
    sentences = {text for pair in make_pairs(60) for text in (pair.sentence1, pair.sentence2)}
    assert {one.text for one in texts if one.kind == "pair"} == sentences
    passages = [one for one in texts if one.kind == "passage"]
    assert {one.text for one in passages} == {f"Passage number {number}." for number in range(40)}
    assert {one.source for one in texts if one.kind == "pair"} == {"job"}
    assert {one.label for one in passages} == {None}
    assert all(one.source for one in passages)


@pytest.mark.parametrize("all_at", [0, 4])
def test_a_small_sample_has_both_kinds_and_is_the_same_for_a_seed(
    filled: Dataset, all_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "ALL_AT", all_at)
    filled.remove(list(range(1, 40)))
    texts = filled.sample_texts(20, 1)
    assert [one.kind for one in texts] == ["pair"] * 10 + ["passage"] * 10
    assert len({one.text for one in texts}) == 20
    assert min(one.id for one in texts if one.kind == "pair") >= 40
    assert filled.sample_texts(20, 1) == texts
    assert filled.sample_texts(20, 2) != texts


def test_one_kind_stands_in_for_the_other(pairs_dataset: Dataset) -> None:
    assert pairs_dataset.sample_texts(5, 0) == []
    pairs_dataset.add(records(make_pairs(9)))
    assert [one.kind for one in pairs_dataset.sample_texts(6, 0)] == ["pair"] * 6


def test_a_query_is_a_text_and_its_passage_is_not_told_twice(pairs_dataset: Dataset) -> None:
    [record] = records(make_pairs(1))
    origin = record.provenance.model_copy(update={"task": "retrieval"})
    pairs_dataset.add([record.model_copy(update={"provenance": origin})])
    [text] = pairs_dataset.sample_texts(5, 0)
    assert text.text == record.pair.sentence1


def test_a_text_surprises_as_much_as_its_pairs_do_on_average(filled: Dataset) -> None:
    assert filled.surprises() == {}
    first, second, _ = make_pairs(3)  # of one sentence1, with scores 1 and 0.5
    filled.set_cosines("r000001-00000000", [(1, 0.75), (2, 0.75)])
    assert filled.surprises() == {first.sentence1: 0.25, first.sentence2: 0.25, second.sentence2: 0.25}
    filled.review(2, score=0.0)
    assert filled.surprises()[first.sentence1] == 0.5


def test_only_what_deletes_texts_counts_as_a_deletion(filled: Dataset) -> None:
    filled.review(1, score=0.25)
    filled.remove([9999])
    assert filled.deletions() == 0
    filled.remove([2, 3])
    assert filled.deletions() == 1
    filled.add_documents([make_document("d1", "Something else.")])
    assert filled.deletions() == 2, "its passage is gone"
