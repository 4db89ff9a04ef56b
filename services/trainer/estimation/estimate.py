"""The label-free estimate: how well a student's cosines rank pairs of the user's texts as a language model does.

It is Spearman's partial correlation x 100, given how many letters two texts share. A language model finds likely what
repeats words, and so do poor students: what both owe to that says nothing. The bootstrap draws anchors, since pairs of
one anchor are not independent; ranks are those of all pairs. What it sees and what not: docs/quality.md.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer

from services.trainer.estimation.sample import TextPairs
from services.trainer.evaluation.bootstrap import SAMPLES, Difference
from services.trainer.evaluation.sts import SAME, Encode, Undefined

Numbers = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """Of one student: the partial correlation x 100, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimator:
    """Measures students on one kind of task."""

    kind: str
    """`similarity`, `grouping` or `retrieval`."""
    pairs: TextPairs
    mutual_information: Numbers
    """A language model's, [pairs]."""

    def cosines(self, encode: Encode) -> Numbers:
        """A student's, [pairs]. Raises `Undefined` where a vector is not finite, or where all are alike."""
        cosines = self.pairs.cosines(encode(self.pairs.texts))
        if not np.isfinite(cosines).all():
            raise Undefined("the student's vectors are not finite")
        if np.ptp(cosines) < SAME:
            raise Undefined("the student finds all pairs equally similar")
        return cosines

    def estimate(self, cosines: Numbers) -> Estimate:
        """Of one student."""
        value, samples = self._correlations(cosines)
        return Estimate(round(value, 2), *_interval(samples))

    def compare(self, old: Numbers, new: Numbers, margin: float) -> Difference:
        """The new student against the old one, on the same resamples of anchors."""
        (before, old_samples), (after, new_samples) = self._correlations(old), self._correlations(new)
        changes = new_samples - old_samples
        return Difference(
            round(after - before, 2), *_interval(changes), worse=round(float((changes < -margin).mean()), 4)
        )

    def _correlations(self, cosines: Numbers) -> tuple[float, Numbers]:
        """Over all pairs, and over each of the resamples, [samples]."""
        ranks = np.stack([_ranks(cosines), self._informed, self._overlap])
        products = (ranks[:, None] * ranks[None]).reshape(9, -1)
        moments = np.vstack([np.ones(ranks.shape[1]), ranks, products])
        by_anchor = np.stack([np.bincount(self._anchor, weights=row) for row in moments], axis=1)
        return float(_partial(by_anchor.sum(axis=0)[None])[0]), _partial(self._draws @ by_anchor)

    @cached_property
    def _informed(self) -> Numbers:
        return _ranks(self.mutual_information)

    @cached_property
    def _overlap(self) -> Numbers:
        vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True).fit_transform(
            self.pairs.texts
        )
        one, other = self.pairs.pairs.T
        return _ranks(np.asarray(vectors[one].multiply(vectors[other]).sum(axis=1), np.float64).ravel())

    @cached_property
    def _anchor(self) -> npt.NDArray[np.int64]:
        return np.unique(self.pairs.anchors, return_inverse=True)[1]

    @cached_property
    def _draws(self) -> Numbers:
        """How often each anchor is drawn, [samples, anchors]."""
        anchors = int(self._anchor.max()) + 1
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
