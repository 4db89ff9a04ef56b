"""The measures of the fifth round, and the students that it compares."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from experiments import relations
from experiments.relations import Measures, Trial
from services.trainer.distillation.corpus import Corpus
from services.trainer.distillation.similarity import TrainingConfig
from services.trainer.evaluation.sts import Row, score
from services.trainer.models import encoder
from services.trainer.models.static import Table
from tests.support.pairs import make_pairs
from tests.support.students import write_static

LESSON = TrainingConfig(learning_rate=0.1, epochs=60, batch=64)


@pytest.fixture
def model(tmp_path: Path) -> object:
    write_static(tmp_path / "model")
    return encoder.load(str(tmp_path / "model"), "student")


@pytest.fixture
def judges() -> dict[str, list[Row]]:
    pairs = make_pairs(200, seed=2)
    return {"one": [(pair.sentence1, pair.sentence2, pair.score) for pair in pairs[:100]],
            "two": [(pair.sentence1, pair.sentence2, pair.score) for pair in pairs[100:]]}  # fmt: skip


def sentences(seed: int) -> list[str]:
    return sorted({text for pair in make_pairs(200, seed=seed) for text in (pair.sentence1, pair.sentence2)})


def other_words(model: object) -> Table:
    return np.random.default_rng(3).normal(size=encoder.token_embeddings(model).shape).astype(np.float32)


def seen_by(model: object, words: Table, texts: Sequence[str]) -> Table:
    """What a mean of `words` is of each text."""
    found: Table = (encoder.bag_of_tokens_matrix(model, texts) @ words).astype(np.float32)
    return found


def test_the_teacher_s_own_order_is_whole_and_another_is_not(model: object, judges: dict[str, list[Row]]) -> None:
    texts, teacher = sentences(4), other_words(model)
    measures = Measures(model, judges, texts, seen_by(model, teacher, [*texts, *relations.judged(judges)]))
    own, other = measures.of(teacher), measures.of(encoder.token_embeddings(model))
    orders = ["order", "order of the nearest", "order in one", "order in two"]
    assert {*own} == {"one", "two", *orders}
    assert all(own[name] > 99.9 for name in orders)
    assert all(other[name] < 90 for name in orders)
    graded = score(partial(seen_by, model, teacher), judges["one"])
    assert own["one"] == pytest.approx(graded, abs=0.02)


def test_relations_bring_the_order_and_the_placebo_does_not(model: object, judges: dict[str, list[Row]]) -> None:
    texts, taught, teacher = sentences(4), sentences(5), other_words(model)
    known = Corpus(taught, seen_by(model, teacher, taught))
    measures = Measures(model, judges, texts, seen_by(model, teacher, [*texts, *relations.judged(judges)]))
    plain = encoder.token_embeddings(model).copy()
    trial = Trial("relations alone", len(taught), LESSON, closed=False)
    found = [
        measures.of(relations.make(one, plain, model[0].tokenizer, known, np.zeros(16, np.float32)))["order"]  # type: ignore[index]
        for one in (Trial("made of the token table", 0, None), replace(trial, placebo=True), trial)
    ]
    assert found[2] > max(found[:2]) + 20


def test_every_part_of_a_corpus_has_the_same_steps_and_all_of_it_has_seeds_and_a_placebo() -> None:
    trials = list(relations.trials(30_000))
    taken = {
        trial.sentences * trial.lesson.epochs for trial in trials if trial.name == "and relations" and trial.lesson
    }
    assert max(taken) < 1.1 * min(taken)
    assert sum(trial.placebo for trial in trials) == 1
    seeds = {trial.lesson.seed for trial in trials if trial.sentences == 30_000 and trial.lesson}
    assert len(seeds) == 3
    assert [trial.sentences for trial in relations.trials(3_000) if trial.name == "views alone"] == [3_000]
