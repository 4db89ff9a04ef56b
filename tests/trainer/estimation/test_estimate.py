"""Which pairs are measured, and what the estimate makes of students that are good, poor or only spell alike."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from services.trainer.estimation import build
from services.trainer.estimation.estimate import RankEstimator, SearchEstimator
from services.trainer.estimation.mutual_information import QUERY, SAME_MEANING, measure, measure_cached
from services.trainer.estimation.sample import RANKS, near_and_far, queries_and_passages, sample_texts, search
from services.trainer.evaluation.sts import Encode, Undefined
from services.trainer.models.likelihood import Likelihood
from tests.support.tiny_teacher import make_tiny_teacher

TOPICS, FORMS = 30, 10
TEXTS = [
    f"{'abcdefghij'[form] * 9} {'klmnopqrst'[(form * 7 + topic) % 10] * 6} {topic} {form}"
    for topic in range(TOPICS)
    for form in range(FORMS)
]
"""Texts of a topic share no letters; texts of a form do."""
DIRECTIONS = np.random.default_rng(0).standard_normal((TOPICS + FORMS, 24)).astype(np.float32)


def student(meaning: float, spelling: float = 0.0, noise: float = 0.0) -> Encode:
    """Knows a text's topic and how it is spelt, more or less."""

    def encode(texts: Sequence[str]) -> np.ndarray:
        numbers = [(int(text.split()[2]), int(text.split()[3])) for text in texts]
        errors = [np.random.default_rng(list(text.encode())).standard_normal(24) for text in texts]
        vectors = [
            meaning * DIRECTIONS[topic] + spelling * DIRECTIONS[TOPICS + form] + noise * error
            for (topic, form), error in zip(numbers, errors, strict=True)
        ]
        return np.array(vectors, np.float32)

    return encode


def grouping() -> RankEstimator:
    """As a language model has it that knows topics, and likes repeated words too."""
    pairs = near_and_far(TEXTS, [student(0.5, 0.5)(TEXTS)])
    return RankEstimator("grouping", pairs, pairs.cosines(student(1.0, 0.7, 0.2)(pairs.texts)))


def test_a_student_is_not_better_for_spelling_alike() -> None:
    one = grouping()
    students = {"meaning": student(1), "spelling": student(0, 1, 0.1)}
    cosines = {name: one.cosines(encode) for name, encode in students.items()}
    values = {name: one.estimate(some) for name, some in cosines.items()}
    as_it_is = 100 * float(spearmanr(cosines["spelling"], one.mutual_information).statistic)
    assert values["spelling"].value < as_it_is - 15, "what is owed to shared letters is taken out"
    assert values["meaning"].value > values["spelling"].value + 40
    assert all(estimate.low < estimate.value < estimate.high for estimate in values.values())
    change = one.compare(one.cosines(student(1, 0, 2)), one.cosines(student(1)), 0.2)
    assert (change.low > 0, change.worse, change.better) == (True, 0.0, 1.0)
    same = one.compare(cosines["meaning"], cosines["meaning"], 0.2)
    assert (same.value, same.low, same.high, same.worse, same.better) == (0, 0, 0, 0, 0)


def test_vectors_that_say_nothing_are_undefined() -> None:
    with pytest.raises(Undefined, match="equally similar"):
        grouping().cosines(lambda texts: np.ones((len(texts), 3), np.float32))
    with pytest.raises(Undefined, match="not finite"):
        grouping().cosines(lambda texts: np.full((len(texts), 3), np.nan, np.float32))


def test_partners_are_near_and_far_and_the_same_each_time() -> None:
    vectors = student(1)(TEXTS)
    pairs = near_and_far(TEXTS, [vectors])
    assert np.array_equal(pairs.pairs, near_and_far(TEXTS, [vectors]).pairs)
    assert (pairs.pairs[:, 0] != pairs.pairs[:, 1]).all()
    per_anchor = np.unique(pairs.anchors, return_counts=True)[1]
    assert len(RANKS) <= per_anchor.min() <= per_anchor.max() <= len(RANKS) + 2
    same = [TEXTS.index(one) // FORMS == TEXTS.index(other) // FORMS for one, other in pairs.rows()]
    assert 0.3 < np.mean(same) < 0.6  # ranks 1, 2, 4 and 8 of nine others


def test_a_sample_keeps_most_texts_when_the_corpus_grows() -> None:
    before, after = (sample_texts(TEXTS[:count], 100) for count in (200, 220))
    assert len(set(before) & set(after)) > 80
    assert sample_texts(["a", "a", " ", "b"]) == sample_texts(["b", "a"])


def test_search_asks_for_the_own_passage_and_for_the_order_of_others() -> None:
    queries, passages = TEXTS[::FORMS], TEXTS[1::2]
    found = search(queries, [TEXTS[number * FORMS + 1] for number in range(TOPICS)], passages, [student(0.5, 0.5)])
    assert not any(other == found.own[query] for query, other in found.pairs)
    truth = student(1, 0, 0.1)
    information = np.array([float(truth([one])[0] @ truth([other])[0]) for one, other in found.rows()])
    one = SearchEstimator(found, information)
    good, poor = (one.estimate(one.cosines(encode)) for encode in (student(1), student(0, 0, 1)))
    assert good.value > 50 > 30 > poor.value


def test_queries_and_passages_are_told_by_their_lengths() -> None:
    short = [(f"{text} a", f"{text} b", 1.0) for text in TEXTS[:50]]
    assert queries_and_passages(short, [], [student(1)]) is None
    long = [(one, f"{one} {'and more ' * 12}", 1.0) for one in TEXTS[:50]]
    found = queries_and_passages(long, [row[1] for row in long], [student(1)])
    assert found is not None
    assert all(found.passages[own].startswith(query) for query, own in zip(found.queries, found.own, strict=True))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Likelihood:
    return Likelihood(make_tiny_teacher(tmp_path_factory.mktemp("teacher")), "TEACHER")


def test_mutual_information_is_kept_and_damage_is_overcome(tiny: Likelihood, tmp_path: Path) -> None:
    pairs, file, loads = list(zip(TEXTS[:20], TEXTS[20:40], strict=True)), tmp_path / "kept.npz", list[int]()

    def load() -> Likelihood:
        loads.append(1)
        return tiny

    first = measure_cached(pairs, SAME_MEANING, file, load, lambda _done, _all: None)
    again = measure_cached(pairs[::-1], SAME_MEANING, file, load, lambda _done, _all: None)
    np.testing.assert_allclose(again[::-1], first, atol=1e-6)
    assert len(loads) == 1
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_allclose(measure_cached(pairs, SAME_MEANING, file, load, lambda _a, _b: None), first, atol=1e-6)
    assert len(loads) == 2


def test_mutual_information_is_symmetric_for_texts_of_one_kind(tiny: Likelihood) -> None:
    pairs = [("dog runs", "cat sleeps"), ("cat sleeps", "dog runs")]
    same = measure(pairs, SAME_MEANING, tiny)
    query = measure(pairs, QUERY, tiny)
    assert same[0] == pytest.approx(same[1], abs=1e-6)
    assert query[0] != pytest.approx(query[1], abs=1e-6)


def test_too_few_texts_are_no_evidence(tiny: Likelihood, tmp_path: Path) -> None:
    model = build.LanguageModel(lambda: tiny, tmp_path / "kept.npz")
    few = TEXTS[: build.FEWEST_TEXTS - 1]
    assert build.estimators(few, [], [], None, [student(1)], model, lambda _done, _all: None) == []
