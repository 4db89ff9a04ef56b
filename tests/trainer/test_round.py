"""A round, in this process: real training, a real version."""

import errno
import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from services.trainer.dataset.document_rows import DocumentSelection
from services.trainer.evaluation.sts import unit
from services.trainer.models import encoder
from shared.errors import Fatal
from shared.manifest import PROBE_SENTENCES
from tests.support.documents import make_document, retrieval
from tests.support.pairs import NOUNS, SYNONYMS, make_pairs, plan, records
from tests.support.trainer_homes import Home


def test_the_untrained_base_is_round_0(home: Home, static_student: Path) -> None:
    manifest = home.published(home.run(home.dataset.plan_base(1, str(static_student))))
    assert (manifest.round, manifest.pairs, manifest.scores, manifest.recipe) == (0, 0, {}, {})
    assert manifest.int8_ranges == {}
    original = encoder.encode(encoder.load(str(static_student), "test"), PROBE_SENTENCES)
    np.testing.assert_allclose(np.array(manifest.probe), original, atol=1e-6)


@pytest.mark.slow
def test_a_static_student_learns_and_its_version_says_how(home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(600)))
    round_ = plan(home.dataset, 3, str(static_student))
    told = home.run(round_, learning_rate=0.02, epochs=10)
    manifest = home.published(told)
    assert manifest.scores["dev_after"] > manifest.scores["dev_before"] + 20
    assert manifest.recipe.items() >= {
        "preset": "default", "loss": "CosineSimilarityLoss", "epochs": 10, "learning_rate": 0.02, "batch_size": 32,
        "seed": 3, "warm_up": 0.1,
    }.items()  # fmt: skip
    assert (manifest.dataset_hash, manifest.pairs) == (round_.dataset_hash, 600)
    assert (manifest.dimensions, manifest.max_seq_length) == (16, None)
    written = encoder.load(str(home.store.path(manifest.id)), "test")
    vectors = encoder.encode(written, [*PROBE_SENTENCES, *(pair.sentence1 for pair in make_pairs(600))])
    assert np.abs(unit(vectors[:4])).max() - 1e-6 <= manifest.int8_ranges[16] <= np.abs(unit(vectors)).max() + 1e-6
    steps = [progress for progress in told if progress.steps and not progress.fresh]
    assert [progress.step for progress in steps] == list(range(steps[0].steps + 1))
    assert steps[-1].loss is not None
    assert told[-1].scores == manifest.scores
    points = [(one.step, name, getattr(one, name)) for one in told for name in one.fresh]
    assert {name for _, name, _ in points} == {"loss", "dev"}
    assert max(points)[0] == steps[0].steps
    losses = [value for _, name, value in points if name == "loss"]
    assert losses[0] > losses[-1]


def test_a_version_holds_what_serving_needs_and_nothing_else(home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(60)))
    manifest = home.published(home.run(plan(home.dataset, 1, str(static_student))))
    assert sorted(manifest.files) == [
        "README.md", "config_sentence_transformers.json", "model.safetensors", "modules.json",
        "report/confusion.png", "report/dev.png", "report/histograms.png", "report/loss.png", "report/report.html",
        "report/report.md", "tokenizer.json",
    ]  # fmt: skip
    folder = home.store.path(manifest.id)
    model = encoder.load(str(folder), "test")
    assert model[0].embedding.sparse is False
    np.testing.assert_allclose(encoder.encode(model, PROBE_SENTENCES), np.array(manifest.probe), atol=1e-6)
    assert (manifest.recipe["epochs"], manifest.recipe["learning_rate"], manifest.recipe["batch_size"]) == (
        20,
        1e-3,
        32,
    )
    card = (folder / "README.md").read_text()
    assert manifest.dataset_hash is not None
    assert "Pairwright" in card
    assert manifest.dataset_hash in card
    assert str(static_student) in card
    assert not (home.settings.dataset_dir / "rounds").exists()


@pytest.mark.slow
def test_a_transformer_trains_with_the_papers_numbers(home: Home, plain_encoder: Path) -> None:
    home.dataset.add(records(make_pairs(120)))
    manifest = home.published(home.run(plan(home.dataset, 1, str(plain_encoder))))
    assert (manifest.recipe["epochs"], manifest.recipe["learning_rate"], manifest.recipe["batch_size"]) == (1, 2e-5, 32)
    assert (manifest.dimensions, manifest.max_seq_length) == (16, 64)
    assert manifest.scores.keys() == {"dev_before", "dev_after"}
    trained, base = (encoder.load(str(folder), "test") for folder in (home.store.path(manifest.id), plain_encoder))
    assert np.abs(encoder.encode(trained, ["a noun7 sees"]) - encoder.encode(base, ["a noun7 sees"])).max() > 1e-5


@pytest.mark.slow
def test_the_same_round_gives_the_same_version(tmp_path: Path, home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(90)))
    round_ = plan(home.dataset, 1, str(static_student))
    other = Home(tmp_path / "other", home.dataset)
    assert home.published(home.run(round_)).id == other.published(other.run(round_)).id


@pytest.mark.slow
def test_a_round_that_is_published_already_is_only_activated(home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(60)))
    round_ = plan(home.dataset, 1, str(static_student))
    first = home.published(home.run(round_))
    (home.store.root / "current").unlink()  # death came between the rename and the pointer
    told = home.run(round_)
    assert home.published(told).id == first.id
    assert len(told) == 1
    assert len(home.store.versions()) == 1


def test_without_a_dev_side_there_are_no_scores_and_still_a_version(home: Home, static_student: Path) -> None:
    home.dataset.add(records([pair.model_copy(update={"score": 1.0}) for pair in make_pairs(60)]))
    assert home.published(home.run(plan(home.dataset, 1, str(static_student)))).scores == {}


def test_a_full_disk_leaves_the_old_version(home: Home, static_student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = home.published(home.run(home.dataset.plan_base(1, str(static_student))))
    home.dataset.add(records(make_pairs(60)))
    round_ = plan(home.dataset, 1, str(static_student))

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space left"):
            home.run(round_)
    assert home.store.current() == before.id
    assert [manifest.id for manifest in home.store.versions()] == [before.id]
    assert home.published(home.run(round_)).round == 1


def test_a_student_that_is_gone_is_named(home: Home, tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="PAIRWRIGHT_STUDENT: there is no folder"):
        home.run(home.dataset.plan_base(1, str(tmp_path / "gone")))


def test_a_corpus_is_enough_for_a_round(home: Home, static_student: Path) -> None:
    """Each document is about two nouns of its own, and its queries name one of them: the corpus' terms tell."""
    words = [f"the {one} near a {SYNONYMS[one]} sees the {other}" for one, other in zip(NOUNS, NOUNS[7:], strict=False)]
    home.dataset.add_documents([make_document(f"d{number}", text) for number, text in enumerate(words)])
    round_ = plan(home.dataset, 1, str(static_student))
    told = home.run(round_)
    manifest = home.published(told)
    assert "reading the corpus" in [progress.state for progress in told]
    assert (manifest.pairs, manifest.round, manifest.dataset_hash) == (0, 1, None)
    assert manifest.training.items() >= {"passages": len(words), "corpus_terms": len(words), "titles": False}.items()
    folder = home.store.path(manifest.id)
    assert f"from {len(words)} passages" in (folder / "report" / "report.md").read_text()
    assert "a corpus, without a pair" in (folder / "README.md").read_text()
    queries = [f"a {noun}" for noun in NOUNS[: len(words)]]
    before, after = (_rank_of_own(Path(one), queries, words) for one in (static_student, folder))
    assert after > before + 0.1


@pytest.mark.slow
def test_a_killed_round_keeps_the_passages_that_it_began_with(home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(600)))
    texts = [f"the {one} near a {SYNONYMS[one]}" for one in NOUNS]
    home.dataset.add_documents([make_document(f"d{number}", text) for number, text in enumerate(texts)])
    round_ = plan(home.dataset, 1, str(static_student))
    home.kill_at(5, round_, epochs=100)
    home.dataset.remove_documents(home.dataset.find_documents(DocumentSelection(text="noun1")))
    assert home.dataset.count_passages() < len(NOUNS)
    manifest = home.published(home.run(round_, epochs=100))
    assert manifest.training["passages"] == manifest.training["corpus_terms"] == len(NOUNS)


def _rank_of_own(student: Path, queries: list[str], passages: list[str]) -> float:
    """The mean reciprocal rank of the passage with a query's number."""
    model = encoder.load(str(student), "test")
    cosines = unit(encoder.encode(model, queries)) @ unit(encoder.encode(model, passages)).T
    return float(np.mean(1 / (1 + (cosines > np.diag(cosines)[:, None]).sum(axis=1))))


@pytest.mark.slow
def test_a_transformer_learns_queries(home: Home, plain_encoder: Path) -> None:
    contents = [f"the {SYNONYMS[one]} near a {SYNONYMS[other]}" for one, other in itertools.combinations(NOUNS[:20], 2)]
    home.dataset.add_documents([make_document(f"d{number}", text) for number, text in enumerate(contents)])
    asked = [(f"a {one} sees the {other}", text) for (one, other), text in
             zip(itertools.combinations(NOUNS[:20], 2), contents, strict=True)]  # fmt: skip
    home.dataset.add([retrieval(query, text) for query, text in asked])
    round_ = plan(home.dataset, 1, str(plain_encoder))
    told = home.run(round_, learning_rate=1e-3)
    manifest = home.published(told)
    assert [state for state, _ in itertools.groupby(progress.state for progress in told)] == [
        "preparing", "reading the corpus", "mining negatives", "training", "publishing",
    ]  # fmt: skip
    training = manifest.training
    assert training["corpus_terms"] == len(contents)
    assert training["queries"] == len(asked)
    assert 150 <= training["held_out"] + training["query_rows"] <= len(asked)  # a few have no passage that is unlike
    assert not training["titles"]
    assert manifest.split["train"] == 0
    assert "with mined negatives" in (home.store.path(manifest.id) / "report" / "report.md").read_text()
