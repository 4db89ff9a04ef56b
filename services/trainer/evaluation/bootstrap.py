"""How sure a correlation is: resampling whole groups of rows, since pairs of one sentence1 are not independent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Numbers = npt.NDArray[np.float64]

SAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """Spearman x 100 of a new ranking minus that of an old one, on the same rows."""

    value: float
    low: float
    """The 95 % interval's ends."""
    high: float
    worse: float
    """The share of the samples in which the new one is worse by more than the margin."""
    better: float = 0.0
    """The share in which it is better."""


def interval(gold: Sequence[float], cosines: Numbers, groups: Sequence[object] | None = None) -> tuple[float, float]:
    """The 95 % interval of Spearman x 100. Deterministic. NaN where the samples have no correlation."""
    scores = np.asarray(gold)
    return _percentiles(np.array([_spearman(scores[rows], cosines[rows]) for rows in _samples(len(gold), groups)]))


def difference(
    gold: Sequence[float], old: Numbers, new: Numbers, margin: float, groups: Sequence[object] | None = None
) -> Difference:
    """The paired bootstrap: both rankings on the same samples. Deterministic."""
    scores = np.asarray(gold)
    samples = _samples(len(gold), groups)
    values = np.array([_spearman(scores[some], new[some]) - _spearman(scores[some], old[some]) for some in samples])
    values = values[np.isfinite(values)]  # a sample with one score only says nothing
    low, high = _percentiles(values)
    if not len(values):
        return Difference(low, low, high, 0.0)
    value = _spearman(scores, new) - _spearman(scores, old)
    return Difference(round(value, 2), low, high, round(float((values < -margin).mean()), 4))


def _samples(rows: int, groups: Sequence[object] | None) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of `SAMPLES` resamples with replacement, group by group."""
    names = groups if groups is not None else range(rows)
    places = {name: number for number, name in enumerate(dict.fromkeys(names))}
    numbers = np.array([places[name] for name in names], dtype=np.int64)
    order = np.argsort(numbers, kind="stable")
    sizes = np.bincount(numbers, minlength=len(places))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    random = np.random.default_rng(0)
    for _ in range(SAMPLES):
        drawn = random.integers(0, len(sizes), len(sizes))
        lengths = sizes[drawn]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield order[np.repeat(starts[drawn], lengths) + within]


def _spearman(gold: Numbers, cosines: Numbers) -> float:
    """Spearman x 100; NaN where one side has a single value."""
    left, right = rankdata(gold), rankdata(cosines)
    left, right = left - left.mean(), right - right.mean()
    scale = np.sqrt((left @ left) * (right @ right))
    return float(100 * (left @ right) / scale) if scale > 0 else float("nan")


def _percentiles(values: Numbers) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return round(float(low), 2), round(float(high), 2)
