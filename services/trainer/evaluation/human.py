"""Measures of what people judged, as pure functions of vectors: search, grouping, pairs of the same meaning. All x 100.

Vectors are [texts, dimensions] of any length: cosines count. Intervals are of 95 %, from resampled items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import average_precision_score, ndcg_score, v_measure_score

from services.trainer.evaluation.sts import Undefined, unit

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]

DEPTH = 10
SAMPLES = 1000
SEEDS, STARTS = (0, 1, 2), 3
"""Of k-means, whose V-measure moves by two points from seed to seed."""
MOST_RANKED = 5000
"""Texts whose ranking of all others is measured: a mean over so many is sure enough."""
CHUNK = 500  # rows whose cosines with all texts are in memory at one time


@dataclass(frozen=True)
class Measure:
    """A mean over items, and its interval where that is cheap."""

    value: float
    low: float | None = None
    high: float | None = None
    items: Numbers | None = field(default=None, compare=False, repr=False)
    """What the mean is of, before it is taken x 100."""

    def as_json(self) -> dict[str, float | None]:
        """Without the items."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def change(self, after: "Measure") -> "Measure":
        """From this one to that of another student on the same items, with the interval of the paired difference."""
        if self.items is not None and after.items is not None:
            return mean(after.items - self.items)
        return Measure(round(after.value - self.value, 2))


class Retrieval(NamedTuple):
    """How a student searches."""

    measures: dict[str, Measure]
    """nDCG@10, recall@10 and MRR@10."""
    first: list[int]
    """By judged query, the number of the document that is found first."""


def retrieval(queries: Vectors, documents: Vectors, relevant: Sequence[Mapping[int, float]]) -> Retrieval:
    """Search. `relevant`: by query, the grades above 0 of documents by number.

    Queries without a relevant document are left out. Raises `Undefined` where none is left.
    """
    judged = [number for number, grades in enumerate(relevant) if grades]
    if not judged or len(documents) < 2:
        raise Undefined("no query has a relevant document" if len(documents) > 1 else "there are no two documents")
    unit_documents, rows, firsts = _unit(documents), list[tuple[float, float, float]](), list[int]()
    for start in range(0, len(judged), CHUNK):
        numbers = judged[start : start + CHUNK]
        cosines = _unit(queries[numbers]) @ unit_documents.T
        rows += [_ranked(row, relevant[number]) for number, row in zip(numbers, cosines, strict=True)]
        firsts += cosines.argmax(axis=1).tolist()
    ndcg, recall, reciprocal = np.asarray(rows).T
    return Retrieval({"ndcg@10": mean(ndcg), "recall@10": mean(recall), "mrr@10": mean(reciprocal)}, firsts)


def grouping(vectors: Vectors, labels: Sequence[str]) -> dict[str, Measure]:
    """How well vectors of texts group by label.

    `v`: V-measure of k-means with as many clusters as labels, the mean of three seeds. `nearest`: the share of texts
    whose nearest other text has the same label. `map`: mean average precision of the texts with the same label among
    all others, over at most `MOST_RANKED` texts that are not the only one of their label. Raises `Undefined`.
    """
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    if not 1 < len(names) < len(numbers):
        raise Undefined("all texts have one label" if len(names) < 2 else "no two texts have the same label")
    vectors = _unit(vectors)
    nearest, precision = _neighbours(vectors, numbers)
    clusters = [
        v_measure_score(numbers, MiniBatchKMeans(len(names), random_state=seed, n_init=STARTS).fit_predict(vectors))
        for seed in SEEDS
    ]
    return {"v": Measure(_percent(np.mean(clusters))), "nearest": mean(nearest), "map": mean(precision)}


def pairs(one: Vectors, other: Vectors, same: Sequence[bool]) -> dict[str, Measure]:
    """`ap`: average precision of pairs that mean the same, ranked by cosine. Raises `Undefined`."""
    truth = np.asarray(same, bool)
    if not truth.any() or truth.all():
        raise Undefined("all pairs have one label" if len(truth) else "there are no pairs")
    cosines = np.einsum("ij,ij->i", _unit(one), _unit(other))
    random, samples = np.random.default_rng(0), list[float]()
    for _ in range(SAMPLES // 5):  # each sorts all pairs
        drawn = random.integers(0, len(truth), len(truth))
        if truth[drawn].any():
            samples.append(average_precision_score(truth[drawn], cosines[drawn]))
    return {"ap": Measure(_percent(average_precision_score(truth, cosines)), *_interval(np.asarray(samples)))}


def mean(values: Numbers) -> Measure:
    """The mean of per-item values x 100, with its bootstrap interval. Deterministic."""
    random = np.random.default_rng(0)
    samples = [values[random.integers(0, len(values), len(values))].mean() for _ in range(SAMPLES)]
    return Measure(_percent(values.mean()), *_interval(np.asarray(samples)), items=values)


def _ranked(cosines: Numbers, grades: Mapping[int, float]) -> tuple[float, float, float]:
    """nDCG, recall and reciprocal rank of the first ten documents."""
    first = np.argsort(-cosines, kind="stable")[:DEPTH]
    # Documents further down have no weight; those that are relevant make the ideal order.
    seen = np.union1d(first, np.fromiter(grades, int))
    truth = np.array([[grades.get(int(number), 0.0) for number in seen]])
    ndcg = float(ndcg_score(truth, cosines[seen][None], k=DEPTH, ignore_ties=True))
    hits = [rank for rank, number in enumerate(first, start=1) if int(number) in grades]
    return ndcg, len(hits) / len(grades), 1 / hits[0] if hits else 0.0


def _neighbours(vectors: Vectors, labels: npt.NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """Of each text whether its nearest other has its label; of some, the average precision of those with its label."""
    sizes, nearest, precision = np.bincount(labels), list[float](), list[float]()
    alone = sizes[labels] < 2
    ranked = set(np.random.default_rng(0).permutation(np.flatnonzero(~alone))[:MOST_RANKED].tolist())
    for first in range(0, len(vectors), CHUNK):
        cosines = vectors[first : first + CHUNK] @ vectors.T
        for number, row in enumerate(cosines, start=first):
            row[number] = -np.inf
            nearest.append(float(labels[row.argmax()] == labels[number]))
            if number in ranked:
                hits = np.flatnonzero(labels[np.argsort(-row, kind="stable")] == labels[number])[
                    : sizes[labels[number]] - 1
                ]
                precision.append(float((np.arange(1, len(hits) + 1) / (hits + 1)).mean()))
    return np.asarray(nearest), np.asarray(precision)


def _unit(vectors: Vectors) -> Vectors:
    if not np.isfinite(vectors).all():
        raise Undefined("the student's vectors are not finite")
    return unit(vectors)


def _interval(samples: Numbers) -> tuple[float | None, float | None]:
    if not len(samples):
        return None, None
    low, high = np.percentile(samples, [2.5, 97.5])
    return _percent(low), _percent(high)


def _percent(value: float | np.floating[npt.NBitBase]) -> float:
    return round(100 * float(value), 2)
