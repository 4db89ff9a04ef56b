"""What the default student learns before any pair: the real teacher, its corpus and its views."""

from pathlib import Path

import numpy as np
import pytest

from services.trainer.distillation import corpus, ridge, similarity
from services.trainer.models import adapter, encoder, static
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.students import locate
from shared.pairs import check_sentence
from shared.settings import Settings, load
from shared.teacher import default_teacher
from tests.support.orders import agreement
from tests.support.students import write_teacher


@pytest.fixture(scope="module")
def teacher() -> Path:
    return default_teacher(load(Settings).cache_dir)


@pytest.fixture(scope="module")
def kept(teacher: Path) -> corpus.Corpus:
    found = corpus.corpus_of(encoder.token_table(teacher))
    assert found is not None, "the corpus isn't the default teacher's: run `python -m scripts.make_corpus`"
    return found


def test_each_sentence_is_one_and_has_a_view(kept: corpus.Corpus) -> None:
    for text in kept.texts:
        check_sentence(text)
    assert len(set(kept.texts)) == len(kept.texts) == len(kept.views)
    assert np.isfinite(kept.views).all()


def test_the_views_are_what_the_teacher_sees(teacher: Path, kept: corpus.Corpus) -> None:
    places = range(0, len(kept.texts), len(kept.texts) // 8)
    seen = PromptEOLEncoder(teacher).views([kept.texts[place] for place in places])
    # Without what all views share, which is most of each: any two would be alike.
    one, other = (views - kept.views.mean(axis=0) for views in (kept.views[list(places)], seen))
    lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    cosines = one @ other.T / lengths
    assert np.diag(cosines).min() > 0.9  # of a view its main components are kept, coarsely
    assert (cosines - np.eye(len(cosines))).max() < 0.8


def test_packing_keeps_what_fits_and_the_main_part_of_what_does_not() -> None:
    draw = np.random.default_rng(1)
    flat = draw.normal(size=(600, 40)).astype(np.float32) @ draw.normal(size=(40, 576)).astype(np.float32) + 5
    wide = draw.normal(size=(600, 576)).astype(np.float32)
    for views, error in ((flat, 0.08), (wide, 0.6)):
        kept = corpus.quantize(views)
        assert kept["steps"].dtype == np.int8
        assert np.abs(kept["steps"]).max() == corpus.STEPS
        assert kept["steps"].shape == (600, corpus.COMPONENTS)
        found = corpus.dequantize(kept)
        assert np.linalg.norm(found - views) < error * np.linalg.norm(views - views.mean(axis=0))


def test_the_default_student_is_nearer_to_the_teacher_in_sentences_that_it_did_not_learn_from(
    teacher: Path, kept: corpus.Corpus
) -> None:
    table, tokenizer = encoder.token_table(teacher), encoder.tokenizer(teacher)
    plain = static.word_vectors(table, encoder.tokens(tokenizer, len(table)))
    model = encoder.static_student(tokenizer, plain)
    known, other = slice(0, 6_000), slice(6_000, 9_000)
    learned = ridge.fit_to_teacher(plain, encoder.bag_of_tokens_matrix(model, kept.texts[known]), kept.views[known])
    encoder.set_token_embeddings(model, learned)
    seen = kept.views - _centre(table)
    similarity.distill_similarities(model, kept.texts[known], seen[known])
    unseen, wanted = encoder.bag_of_tokens_matrix(model, kept.texts[other]), seen[other]
    first, then, last = (
        agreement(unseen @ words, wanted) for words in (plain, learned, encoder.token_embeddings(model))
    )
    assert first + 0.1 < then < last - 0.05


def test_it_is_made_so_and_only_of_its_own_teacher(teacher: Path, kept: corpus.Corpus, tmp_path: Path) -> None:
    made = encoder.load(locate.locate("default", "default", load(Settings).cache_dir), locate.SETTING)
    table, tokenizer = encoder.token_table(teacher), encoder.tokenizer(teacher)
    plain = static.word_vectors(table, encoder.tokens(tokenizer, len(table)))
    expected = encoder.static_student(tokenizer, plain)
    bags = encoder.bag_of_tokens_matrix(made, kept.texts)
    encoder.set_token_embeddings(expected, ridge.fit_to_teacher(plain, bags, kept.views))
    similarity.distill_similarities(expected, kept.texts, kept.views - _centre(table))
    words = ridge.rotate_to_principal_axes(encoder.token_embeddings(expected), bags)
    np.testing.assert_allclose(encoder.token_embeddings(made), words, atol=1e-2 * float(np.abs(words).max()))
    write_teacher(tmp_path, tied=True)
    assert corpus.corpus_of(encoder.token_table(tmp_path)) is None


def _centre(table: static.Table) -> np.ndarray:
    found = adapter.adapter_of(table)
    assert found is not None
    centre: np.ndarray = found.centre.numpy()
    return centre
