"""The label-free estimate: how well a student's cosines rank pairs of the user's texts as a language model does.

A language model finds likely what repeats words, and so do poor students: of texts of one kind, what both owe to
shared letters is taken out. The bootstrap draws anchors, since pairs of one are not independent. More: docs/quality.md.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer

from services.trainer.estimation.sample import Search, TextPairs
from services.trainer.evaluation.bootstrap import SAMPLES
from services.trainer.evaluation.sts import SAME, Encode, Undefined, unit

Numbers = npt.NDArray[np.float64]

AGREEMENT = 2 / 3
"""The share of a retrieval estimate that agreement with the query likelihood has."""


class Estimate(NamedTuple):
    """Of one student: the partial correlation x 100, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The measure of a new student minus that of an old one, on the same resamples of anchors."""

    value: float
    low: float
    """The 95 % interval's ends."""
    high: float
    worse: float
    """The share of the resamples in which the new one is worse by more than a margin."""
    better: float
    """The share in which it is better."""


class Estimator(ABC):
    """Measures students on one kind of task."""

    kind: str
    """`grouping` or `retrieval`."""

    @abstractmethod
    def cosines(self, encode: Encode) -> Numbers:
        """What is needed of a student, an array. Raises `Undefined` where a vector is not finite or all are alike."""

    @abstractmethod
    def measure(self, cosines: Numbers) -> tuple[float, Numbers]:
        """The measure x 100, and over each of the resamples, [samples]: the same resamples for all students."""

    def estimate(self, cosines: Numbers) -> Estimate:
        """Of one student."""
        value, samples = self.measure(cosines)
        return Estimate(round(value, 2), *_interval(samples))

    def compare(self, old: Numbers, new: Numbers, margin: float) -> Difference:
        """The new student against the old one."""
        (before, old_samples), (after, new_samples) = self.measure(old), self.measure(new)
        changes = new_samples - old_samples
        worse, better = (round(float(some.mean()), 4) for some in (changes < -margin, changes > 0))
        return Difference(round(after - before, 2), *_interval(changes), worse=worse, better=better)


@dataclass(frozen=True)
class RankEstimator(Estimator):
    """Over all pairs at once: Spearman's partial correlation with the mutual information, given the shared letters."""

    kind: str
    pairs: TextPairs
    mutual_information: Numbers
    """A language model's, [pairs]."""

    def cosines(self, encode: Encode) -> Numbers:
        """Of each pair, [pairs]."""
        return _sound(self.pairs.cosines(encode(self.pairs.texts)))

    def measure(self, cosines: Numbers) -> tuple[float, Numbers]:
        """Ranks are those of all pairs, in the resamples too."""
        ranks = np.stack([_ranks(cosines), self._informed, self._overlap])
        products = (ranks[:, None] * ranks[None]).reshape(9, -1)
        moments = np.vstack([np.ones(ranks.shape[1]), ranks, products])
        by_anchor = np.stack([np.bincount(self._anchor, weights=row) for row in moments], axis=1)
        draws = _draws(len(by_anchor))
        return float(_partial(by_anchor.sum(axis=0)[None])[0]), _partial(draws @ by_anchor)

    @cached_property
    def _informed(self) -> Numbers:
        return _ranks(self.mutual_information)

    @cached_property
    def _overlap(self) -> Numbers:
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
        vectors = letters.fit_transform(self.pairs.texts)
        one, other = self.pairs.pairs.T
        return _ranks(np.asarray(vectors[one].multiply(vectors[other]).sum(axis=1), np.float64).ravel())

    @cached_property
    def _anchor(self) -> npt.NDArray[np.int64]:
        return np.unique(self.pairs.anchors, return_inverse=True)[1]


@dataclass(frozen=True)
class SearchEstimator(Estimator):
    """Query by query: Spearman's correlation with the query likelihood, and the reciprocal rank of the own passage."""

    search: Search
    mutual_information: Numbers
    """A language model's, [pairs]."""
    kind: str = "retrieval"

    def cosines(self, encode: Encode) -> Numbers:
        """Of each query with each passage, [queries, passages]."""
        return _sound(unit(encode(self.search.queries)) @ unit(encode(self.search.passages)).T)

    def measure(self, cosines: Numbers) -> tuple[float, Numbers]:
        """Two parts of correlation, one of rank: the mean over queries."""
        own, query = self.search.own, self.search.pairs[:, 0]
        pairs = cosines[query, self.search.pairs[:, 1]]
        values = []
        for number in range(len(own)):
            mine = query == number
            agreement = float(spearmanr(pairs[mine], self.mutual_information[mine]).statistic)
            beaten = int((cosines[number] > cosines[number, own[number]]).sum()) if own[number] >= 0 else 0
            values.append(AGREEMENT * np.nan_to_num(agreement) + (1 - AGREEMENT) / (1 + beaten))
        by_query = 100 * np.array(values)
        return float(by_query.mean()), _draws(len(values)) @ by_query / len(values)


def _sound(cosines: npt.NDArray[Any]) -> Numbers:
    if not np.isfinite(cosines).all():
        raise Undefined("the student's vectors are not finite")
    if np.ptp(cosines) < SAME:
        raise Undefined("the student finds all pairs equally similar")
    return np.asarray(cosines, np.float64)


def _draws(anchors: int) -> Numbers:
    """How often each anchor is drawn, [samples, anchors]."""
    return np.random.default_rng(0).multinomial(anchors, np.full(anchors, 1 / anchors), SAMPLES).astype(np.float64)


def _ranks(values: Numbers) -> Numbers:
    """From -0.5 to 0.5."""
    return np.asarray((rankdata(values) - 0.5) / len(values) - 0.5)


def _partial(moments: Numbers) -> Numbers:
    """x 100, [samples]: of two of three variables given the third, from sums of 1, of each and of their products."""
    means = moments[:, 1:4] / moments[:, :1]
    covariances = moments[:, 4:].reshape(-1, 3, 3) / moments[:, :1, None] - means[:, :, None] * means[:, None]
    scales = np.sqrt(np.einsum("sii->si", covariances))
    r = covariances / np.maximum(scales[:, :, None] * scales[:, None], 1e-12)
    rest = np.sqrt(np.maximum((1 - r[:, 0, 2] ** 2) * (1 - r[:, 1, 2] ** 2), 1e-12))
    return np.asarray(100 * (r[:, 0, 1] - r[:, 0, 2] * r[:, 1, 2]) / rest)


def _interval(samples: Numbers) -> tuple[float, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return round(float(low), 2), round(float(high), 2)
