"""How sure a correlation is: resampling whole groups of rows, since pairs of one sentence1 are not independent."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Numbers = npt.NDArray[np.float64]

SAMPLES = 1000


def interval(gold: Sequence[float], cosines: Numbers, groups: Sequence[object] | None = None) -> tuple[float, float]:
    """The 95 % interval of Spearman x 100. Deterministic. NaN where the samples have no correlation."""
    scores = np.asarray(gold)
    return _percentiles(np.array([_spearman(scores[rows], cosines[rows]) for rows in _samples(len(gold), groups)]))


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
