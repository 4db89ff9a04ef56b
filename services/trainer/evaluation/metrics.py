"""A student on a human-scored set. Alignment and uniformity, the lower the better: Wang & Isola (arXiv:2005.10242)."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from services.trainer.evaluation.bootstrap import interval
from services.trainer.evaluation.sts import Encode, StsFile, Undefined, correlation, similarities, unit

POSITIVE = 0.8  # pairs from this share of the scale on are positives for alignment (above 4 of 5, as in SimCSE)
MOST_FOR_UNIFORMITY = 4000


@dataclass(frozen=True)
class Quality:
    """One student on one set."""

    pairs: int
    spearman: float
    """x 100, over all pairs of the set at once ("all" in the literature)."""
    low: float
    high: float
    subsets: dict[str, tuple[int, float | None]]
    """Pairs and Spearman x 100 of each subset; None where it has no correlation."""
    alignment: float | None
    """Mean squared distance of the positives' unit vectors; None without positives."""
    uniformity: float
    """Log of the mean of exp(-2 d^2) over pairs of different sentences."""

    def as_json(self) -> dict[str, Any]:
        """For `--json --details`."""
        subsets = {name: {"pairs": pairs, "spearman": value} for name, (pairs, value) in self.subsets.items()}
        return asdict(self) | {"subsets": subsets}


def measure(encode: Encode, file: StsFile) -> Quality:
    """Score a student on a set. Raises `Undefined`."""
    gold = [score for _, _, score in file.rows]
    if not gold:
        raise Undefined("there are no pairs")
    cosines = similarities(encode, file.rows)
    spearman, (low, high) = round(correlation(gold, cosines), 2), interval(gold, cosines)
    subsets: dict[str, tuple[int, float | None]] = {}
    for name in dict.fromkeys(file.subsets):
        numbers = [number for number, subset in enumerate(file.subsets) if subset == name]
        try:
            subsets[name] = len(numbers), round(correlation([gold[n] for n in numbers], cosines[numbers]), 2)
        except Undefined:
            subsets[name] = len(numbers), None
    texts = sorted({text for one, other, _ in file.rows for text in (one, other)})
    scores = np.asarray(gold)
    positive = scores >= scores.min() + POSITIVE * np.ptp(scores)
    alignment = round(float((2 - 2 * cosines[positive]).mean()), 4) if positive.any() else None
    return Quality(len(gold), spearman, low, high, subsets, alignment, _uniformity(encode, texts))


def _uniformity(encode: Encode, texts: Sequence[str]) -> float:
    """On a fixed sample of the sentences: all their pairs."""
    if len(texts) > MOST_FOR_UNIFORMITY:
        chosen = np.random.default_rng(0).choice(len(texts), MOST_FOR_UNIFORMITY, replace=False)
        texts = [texts[number] for number in sorted(chosen)]
    vectors = unit(encode(texts))
    others = (2 - 2 * (vectors @ vectors.T))[np.triu_indices(len(texts), k=1)]
    return round(math.log(float(np.exp(-2 * others.astype(np.float64)).mean())), 4)
