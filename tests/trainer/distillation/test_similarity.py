"""A static student learns the order of its teacher's cosines."""

from pathlib import Path

import numpy as np
import pytest

from services.trainer.distillation import similarity
from services.trainer.distillation.similarity import TrainingConfig
from services.trainer.models import encoder
from tests.support.orders import agreement
from tests.support.pairs import make_pairs
from tests.support.students import write_static

CONFIG = TrainingConfig(learning_rate=0.1, epochs=60, batch=64)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    write_static(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def texts() -> list[str]:
    return sorted({text for pair in make_pairs(400, seed=1) for text in (pair.sentence1, pair.sentence2)})


def another_students_embeddings(folder: str, texts: list[str]) -> np.ndarray:
    """By a mean of quite other token embeddings: so a mean of token embeddings can learn them."""
    other = encoder.load(folder, "student")
    generator = np.random.default_rng(3)
    encoder.set_token_embeddings(other, generator.normal(size=encoder.token_embeddings(other).shape).astype(np.float32))
    return encoder.encode(other, texts)


def order(model: object, texts: list[str], target: np.ndarray) -> float:
    """How far the student puts pairs in the teacher's order."""
    return agreement(encoder.encode(model, texts), target)


@pytest.mark.slow
def test_unseen_sentences_are_ordered_as_the_teacher_orders_them(folder: str, texts: list[str]) -> None:
    target, half = another_students_embeddings(folder, texts), len(texts) // 2
    model, placebo = encoder.load(folder, "student"), encoder.load(folder, "student")
    before = order(model, texts[half:], target[half:])
    similarity.distill_similarities(model, texts[:half], target[:half], CONFIG)
    similarity.distill_similarities(placebo, texts[:half], np.random.default_rng(1).permutation(target[:half]), CONFIG)
    assert order(model, texts[half:], target[half:]) > max(before, order(placebo, texts[half:], target[half:])) + 0.2


@pytest.mark.slow
def test_only_directions_count_and_the_same_sentences_make_the_same_words(folder: str, texts: list[str]) -> None:
    target, made = another_students_embeddings(folder, texts), []
    for factor in (1, 1, 4):
        model = encoder.load(folder, "student")
        similarity.distill_similarities(model, texts, factor * target, CONFIG)
        made.append(encoder.token_embeddings(model).copy())
        assert not model[0].embedding.sparse
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)
    np.testing.assert_allclose(made[0], made[2], atol=1e-2)


def test_sentences_without_words_and_too_few_of_them_do_no_harm(folder: str) -> None:
    model = encoder.load(folder, "student")
    before = encoder.token_embeddings(model).copy()
    for few in (["alone"], ["a pair", "of them"]):
        similarity.distill_similarities(model, few, np.eye(len(few), 8, dtype=np.float32), CONFIG)
        np.testing.assert_array_equal(encoder.token_embeddings(model), before)
    similarity.distill_similarities(model, ["", "", "a b"], np.eye(3, dtype=np.float32), CONFIG)
    assert np.isfinite(encoder.token_embeddings(model)).all()
