"""How far a student's cosines order pairs as the teacher's do: a measure that needs no grade."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from services.trainer.evaluation.sts import Encode, Row, score, similarities, unit

NEAREST = 0.01
"""The share of all pairs of sentences that is also measured alone: there a search decides."""


def measure(teacher: Encode, sentences: Sequence[str], sets: Mapping[str, Sequence[Row]]) -> Callable[
    [Encode], dict[str, float]
]:  # fmt: skip
    """A function that measures a student: Spearman x 100 with the teacher's cosines over all pairs of `sentences`
    (`all pairs`, `nearest`) and over the pairs of each set, whose scores are not looked at."""
    rows = {name: list(zip(*_texts(pairs), similarities(teacher, pairs), strict=True)) for name, pairs in sets.items()}
    cosines = _of_all_pairs(teacher(sentences))
    nearest = cosines >= np.quantile(cosines, 1 - NEAREST)

    def agreement(student: Encode) -> dict[str, float]:
        own = _of_all_pairs(student(sentences))
        measured = {"all pairs": _spearman(own, cosines), "nearest": _spearman(own[nearest], cosines[nearest])}
        measured |= {name: score(student, graded) for name, graded in rows.items()}
        return {name: round(value, 2) for name, value in measured.items()}

    return agreement


def _texts(pairs: Sequence[Row]) -> tuple[list[str], list[str]]:
    return [one for one, _, _ in pairs], [other for _, other, _ in pairs]


def _of_all_pairs(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    units = unit(vectors).astype(np.float64)
    cosines: npt.NDArray[np.float64] = (units @ units.T)[np.triu_indices(len(units), 1)]
    return cosines


def _spearman(some: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> float:
    return 100 * float(spearmanr(some, others).statistic)
