"""The default student and what it learned from: the real teacher, its corpus and its embeddings."""

from pathlib import Path

import numpy as np
import pytest

from services.trainer.distillation import corpus
from services.trainer.evaluation.sts import unit
from services.trainer.models import encoder
from services.trainer.students import locate
from services.trainer.students.names import SETTING
from shared.pairs import check_sentence
from shared.settings import Settings, load
from shared.teacher import default_teacher
from tests.support.orders import agreement, cosines
from tests.support.students import default_encoder, write_teacher

TEXTS = [
    "A man is repairing a bicycle in front of his garage.", "Somebody mends a bike next to a house.",
    "The old dog sleeps under the kitchen table.", "A puppy is lying on the floor.",
    "Share prices fell sharply on Monday.",
]  # fmt: skip
COSINES = [0.3890, -0.0136, 0.0888, -0.0224, -0.0499, 0.0932, 0.0770, 0.3855, -0.0028, 0.0866]
"""Of all pairs of them, by the student of MAKER 9."""


@pytest.fixture(scope="module")
def teacher() -> Path:
    return default_teacher(load(Settings).cache_dir)


@pytest.fixture(scope="module")
def own(teacher: Path) -> corpus.Corpus:
    found = corpus.corpus_of(encoder.token_table(teacher))
    assert found is not None, "the corpus isn't the default teacher's: run `python -m scripts.make_corpus`"
    return found


def test_each_sentence_is_one_and_has_an_embedding(own: corpus.Corpus) -> None:
    for text in own.texts:
        check_sentence(text)
    assert len(set(own.texts)) == len(own.texts) == len(own.embeddings)
    assert np.isfinite(own.embeddings).all()


@pytest.mark.slow
def test_the_embeddings_are_the_teachers(own: corpus.Corpus) -> None:
    places = range(0, len(own.texts), len(own.texts) // 8)
    computed = default_encoder().encode([own.texts[place] for place in places])
    # Without what all embeddings have in common, which is most of each: any two would be alike.
    one, other = (unit(some - own.embeddings.mean(axis=0)) for some in (own.embeddings[list(places)], computed))
    similarities = one @ other.T
    assert np.diag(similarities).min() > 0.9  # the main components of an embedding are kept, coarsely
    assert (similarities - np.eye(len(similarities))).max() < 0.8


def test_quantizing_keeps_what_fits_and_the_main_part_of_what_does_not() -> None:
    generator = np.random.default_rng(1)
    flat = generator.normal(size=(600, 40)).astype(np.float32) @ generator.normal(size=(40, 576)).astype(np.float32) + 5
    wide = generator.normal(size=(600, 576)).astype(np.float32)
    for embeddings, error in ((flat, 0.08), (wide, 0.6)):
        quantized = corpus.quantize(embeddings)
        assert quantized["steps"].dtype == np.int8
        assert np.abs(quantized["steps"]).max() == corpus.STEPS
        assert quantized["steps"].shape == (600, corpus.COMPONENTS)
        restored = corpus.dequantize(quantized)
        assert np.linalg.norm(restored - embeddings) < error * np.linalg.norm(embeddings - embeddings.mean(axis=0))


@pytest.mark.slow
def test_the_default_student_is_the_one_that_was_measured_and_orders_unseen_sentences_as_the_teacher_does(
    teacher: Path, own: corpus.Corpus
) -> None:
    student = encoder.load(locate.locate("default", "default", load(Settings).cache_dir), SETTING)
    np.testing.assert_allclose(cosines(encoder.encode(student, TEXTS)), COSINES, atol=0.01)
    table, tokenizer = encoder.token_table(teacher), encoder.tokenizer(teacher)
    plain = encoder.static_student(tokenizer, table)
    unseen = sorted(set(Path("tests/data/everyday_sentences.txt").read_text().splitlines()) - set(own.texts))
    adapter = default_encoder().adapter
    assert adapter is not None
    target = default_encoder().encode(unseen[:80]) - adapter.centre.numpy()
    before, after = (agreement(encoder.encode(model, unseen[:80]), target) for model in (plain, student))
    assert after > before + 0.15
    spread = (unit(encoder.encode(student, own.texts[:2_000])) ** 2).mean(axis=0)
    assert spread[:64].sum() > 3 * spread[256:320].sum(), "the first dimensions tell most of sentences apart"


def test_another_teacher_has_no_corpus(tmp_path: Path) -> None:
    write_teacher(tmp_path, tied=True)
    assert corpus.corpus_of(encoder.token_table(tmp_path)) is None
