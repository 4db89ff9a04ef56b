"""A static student learns of many pairs when it is made."""

import random
from functools import partial
from pathlib import Path

import numpy as np

from services.trainer import encoder, pretraining
from services.trainer.evaluation import Row, score
from services.trainer.pretraining import Lesson
from tests.trainer.made_pairs import make_pairs
from tests.trainer.students import write_static

LESSON = Lesson(learning_rate=0.02, epochs=3, batch=16)


def student(folder: Path) -> object:
    if not folder.is_dir():
        write_static(folder)
    return encoder.load(str(folder), "student")


def rows(count: int, seed: int) -> list[Row]:
    return sorted((pair.sentence1, pair.sentence2, pair.score) for pair in make_pairs(count, seed=seed))


def test_it_learns_what_the_scores_mean(tmp_path: Path) -> None:
    train, judge = rows(300, 1), rows(120, 2)
    shuffled = [score for _, _, score in train]
    random.Random(1).shuffle(shuffled)
    placebo = [(one, other, dealt) for (one, other, _), dealt in zip(train, shuffled, strict=True)]
    found = []
    for pairs in ([], train, placebo):
        model = student(tmp_path / "model")
        if pairs:
            pretraining.learn_pairs(model, pairs, LESSON)
        found.append(score(partial(encoder.encode, model), judge))
    assert found[1] > max(found[0], found[2]) + 5


def test_the_same_pairs_make_the_same_words(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        model = student(tmp_path / "model")
        pretraining.learn_pairs(model, rows(100, 1), LESSON)
        made.append(encoder.words(model))
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)
    assert np.abs(made[0] - encoder.words(student(tmp_path / "model"))).max() > 0.01


def test_random_partners_are_nobody_s_own() -> None:
    pairs = [("one", "same", 1.0), ("one", "other", 0.0), ("two", "half", 0.5)]
    found = pretraining._with_random_partners(pairs, random.Random(3))
    assert found[:3] == [("one", "same", 0.9), ("one", "other", 0.1), ("two", "half", 0.5)]
    assert all(partner not in ("one", "same", "other") for one, partner, _ in found[3:] if one == "one")
    assert {score for _, _, score in found[3:]} == {0.0}
