"""Measures of what people judged, against values worked out by hand and against chance."""

from collections.abc import Callable

import numpy as np
import pytest

from services.trainer.evaluation import human
from services.trainer.evaluation.sts import Undefined

EYE = np.eye(30, dtype=np.float32)


def test_retrieval_by_hand() -> None:
    # Documents stand by their cosine to the one query: 0, 1, 2, ...
    documents = np.stack([np.cos(np.arange(20) / 20), np.sin(np.arange(20) / 20)], axis=1).astype(np.float32)
    queries = np.asarray([[2, 0], [5, 0], [1, 0]], np.float32)
    found, nearest = human.retrieval(queries, documents, [{1: 1.0, 15: 2.0}, {0: 1.0}, {}])
    assert nearest == [0, 0]
    first = (1 / np.log2(3)) / (2 / np.log2(2) + 1 / np.log2(3))  # rank 2 of a best order that has grade 2 first
    assert found["ndcg@10"].value == pytest.approx(100 * (first + 1) / 2, abs=0.01)
    assert found["recall@10"].value == pytest.approx(100 * (1 / 2 + 1) / 2)
    assert found["mrr@10"].value == pytest.approx(100 * (1 / 2 + 1) / 2)
    low, high = found["mrr@10"].low, found["mrr@10"].high
    assert low == 50
    assert high == 100


def test_grouping_by_hand() -> None:
    labels = [str(number // 10) for number in range(30)]
    perfect = human.grouping(EYE[np.arange(30) // 10], labels)
    assert {key: one.value for key, one in perfect.items()} == {"v": 100, "nearest": 100, "map": 100}
    # On a line 0 1 10 with labels a b a: the nearest of each is of the other label, and 10's only fellow is second.
    line = np.radians([0, 1, 10])
    found = human.grouping(np.stack([np.cos(line), np.sin(line)], axis=1).astype(np.float32), ["a", "b", "a"])
    assert found["nearest"].value == 0
    assert found["map"].value == 50  # "b" is the only one of its label


def test_chance_is_near_the_bottom() -> None:
    vectors = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    found = human.grouping(vectors, [str(number % 6) for number in range(600)])
    assert found["v"].value < 10
    assert found["nearest"].low is not None
    assert found["nearest"].low < 100 / 6 < found["nearest"].high  # type: ignore[operator]
    assert found["map"].value < 25


def test_average_precision_by_hand() -> None:
    angles = np.radians([1, 2, 3, 4])
    other = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    one = np.tile(np.asarray([[3, 0]], np.float32), (4, 1))
    found = human.pairs(one, other, [True, False, True, False])["ap"]
    assert found.value == pytest.approx(100 * (1 + 2 / 3) / 2, abs=0.01)
    assert found.low is not None
    assert found.low < found.value < found.high  # type: ignore[operator]


def test_what_says_nothing_is_undefined() -> None:
    works: list[Callable[[], object]] = [
        lambda: human.retrieval(EYE, EYE, [{}] * 30),
        lambda: human.grouping(EYE, ["a"] * 30),
        lambda: human.grouping(EYE, list(map(str, range(30)))),
        lambda: human.pairs(EYE, EYE, [True] * 30),
        lambda: human.pairs(EYE * np.nan, EYE, [True] * 29 + [False]),
    ]
    for work in works:
        with pytest.raises(Undefined):
            work()
