"""What a round writes down of a corpus: passages, queries, and which of them are held out."""

from pathlib import Path

from services.trainer.dataset.store import Dataset
from services.trainer.training.retrieval import Corpus, prepare, prepared
from tests.support.documents import make_document, retrieval
from tests.support.pairs import make_pairs, plan, records

DOCUMENTS = 120


def title(number: int) -> str:
    return f"the subject of document {number}"


def text(number: int) -> str:
    return f"noun{number} sees noun{number + 1}"


def add_documents(dataset: Dataset, *, titles: bool = True) -> None:
    documents = [
        make_document(f"d{number}", text(number), title=title(number) if titles else "") for number in range(DOCUMENTS)
    ]
    dataset.add_documents(documents)


def snapshot(dataset: Dataset, folder: Path, seed: int = 1) -> Corpus:
    corpus = prepare(dataset, plan(dataset, seed, "default"), folder)
    assert corpus is not None
    return corpus


def test_without_passages_there_is_no_corpus(pairs_dataset: Dataset, tmp_path: Path) -> None:
    pairs_dataset.add(records(make_pairs(6)))
    assert prepare(pairs_dataset, plan(pairs_dataset, 1, "default"), tmp_path / "corpus") is None
    assert prepared(tmp_path / "corpus") is None


def test_titles_are_queries_where_nobody_wrote_any(pairs_dataset: Dataset, tmp_path: Path) -> None:
    add_documents(pairs_dataset)
    corpus = snapshot(pairs_dataset, tmp_path)
    assert corpus.stats.titles
    assert not corpus.stats.short_texts
    assert corpus.stats.passages == corpus.stats.queries == DOCUMENTS
    both = corpus.queries(held_out=True) + corpus.queries(held_out=False)
    assert sorted(both) == sorted((title(number), text(number)) for number in range(DOCUMENTS))
    assert 40 <= corpus.stats.held_out == len(corpus.queries(held_out=True)) <= 80
    assert prepared(tmp_path) == corpus


def test_a_held_out_title_is_nowhere_in_what_is_learnt(pairs_dataset: Dataset, tmp_path: Path) -> None:
    add_documents(pairs_dataset)
    corpus = snapshot(pairs_dataset, tmp_path)
    learnt = "\n".join(corpus.texts(DOCUMENTS)).split("\n")
    assert len(learnt) == DOCUMENTS
    for query, passage in corpus.queries(held_out=True):
        assert passage in learnt
        assert f"{query} {passage}" not in learnt
    for query, passage in corpus.queries(held_out=False):
        assert f"{query} {passage}" in learnt
    assert sorted(corpus.searched()) == sorted(map(text, range(DOCUMENTS)))


def test_a_student_that_learns_no_query_is_measured_by_all_of_them(pairs_dataset: Dataset, tmp_path: Path) -> None:
    add_documents(pairs_dataset)
    contents = [f"{title(number)} {text(number)}" for number in range(DOCUMENTS)]
    pairs_dataset.add([retrieval(f"where is noun{number}?", content) for number, content in enumerate(contents[:50])])
    corpus = prepare(pairs_dataset, plan(pairs_dataset, 1, "default"), tmp_path, learns_queries=False)
    assert corpus is not None
    assert not corpus.stats.titles
    assert (corpus.stats.queries, corpus.stats.held_out) == (50, 50)
    assert corpus.queries(held_out=False) == []
    learnt = prepare(pairs_dataset, plan(pairs_dataset, 1, "default"), tmp_path / "learnt")
    assert learnt is not None
    assert learnt.stats.titles  # too few are left to measure by


def test_written_queries_are_held_out_with_their_documents_and_are_no_pairs(
    pairs_dataset: Dataset, tmp_path: Path
) -> None:
    add_documents(pairs_dataset)
    pairs_dataset.add(records(make_pairs(6)))
    content = {number: f"{title(number)} {text(number)}" for number in range(DOCUMENTS)}
    written = [(f"{kind} noun{number}?", content[number]) for number in content for kind in ("where", "why")]
    pairs_dataset.add([retrieval(query, passage) for query, passage in [*written, ("of nothing?", "of no document")]])
    corpus = snapshot(pairs_dataset, tmp_path)
    assert not corpus.stats.titles
    sides = [corpus.queries(held_out=side) for side in (True, False)]
    assert sorted(sides[0] + sides[1]) == sorted(written)
    assert not {passage for _, passage in sides[0]} & {passage for _, passage in sides[1]}
    assert sorted(corpus.searched()) == sorted(corpus.texts(DOCUMENTS)) == sorted(content.values())
    round_ = pairs_dataset.rounds()[-1]
    assert len(list(pairs_dataset.pairs(round_))) == 6
    assert len(list(pairs_dataset.queries(round_))) == len(written) + 1


def test_a_title_that_its_passage_repeats_asks_nothing(pairs_dataset: Dataset, tmp_path: Path) -> None:
    pairs_dataset.add_documents([make_document("d", f"{title(1)} and more", title=title(1))])
    assert snapshot(pairs_dataset, tmp_path).stats.queries == 0


def test_a_corpus_that_grows_keeps_its_sample(pairs_dataset: Dataset, tmp_path: Path) -> None:
    add_documents(pairs_dataset, titles=False)
    first = snapshot(pairs_dataset, tmp_path / "one").texts(30)
    pairs_dataset.add_documents([make_document("new", "noun1 near the noun2")])
    second = snapshot(pairs_dataset, tmp_path / "two").texts(30)
    assert len(first) == len(second) == 30
    assert len(set(first) & set(second)) >= 29


def test_what_is_as_short_as_a_sentence_is_compared_until_something_asks_for_it(
    pairs_dataset: Dataset, tmp_path: Path
) -> None:
    add_documents(pairs_dataset, titles=False)
    stats = snapshot(pairs_dataset, tmp_path / "alone").stats
    assert (stats.short_texts, stats.titles, stats.queries) == (True, False, 0)
    pairs_dataset.add([retrieval("where is noun1?", text(1))])
    assert not snapshot(pairs_dataset, tmp_path / "asked").stats.short_texts
    pairs_dataset.add_documents([make_document(f"long {number}", text(number) * 9) for number in range(DOCUMENTS + 1)])
    assert not pairs_dataset.holds_short_texts()
