"""Where a student disagrees with the generated labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.trainer.evaluation.sts import Row

MOST_LABELS = 5


@dataclass(frozen=True)
class Disagreement:
    """Each dev pair's label and the label that its similarity looks like."""

    labels: list[str]
    """Ascending."""
    counts: npt.NDArray[np.int64]
    """[label, predicted label]."""
    worst: list[tuple[Row, float, str]]
    """The pairs that are furthest off, the worst first: row, cosine, predicted label."""


def find_disagreements(dev: Sequence[Row], cosines: npt.NDArray[np.float64], most: int) -> Disagreement:
    """Rank the pairs by cosine and give out the labels again, each as often as it occurs."""
    scores = np.array([score for _, _, score in dev])
    edges = _edges(scores)
    label = np.searchsorted(edges, scores, side="right")
    names = _names(scores, label)
    order = np.argsort(cosines, kind="stable")
    predicted = np.empty_like(label)
    predicted[order] = np.sort(label)
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (label, predicted), 1)
    # Off by how many labels; among equals, by how far the cosine is from its label's middle.
    middles = np.array([np.median(cosines[label == number]) for number in range(len(names))])
    distance = np.abs(label - predicted) * 10 + np.abs(cosines - middles[label])
    worst = [index for index in np.argsort(-distance, kind="stable")[:most] if label[index] != predicted[index]]
    return Disagreement(names, counts, [(dev[i], float(cosines[i]), names[predicted[i]]) for i in worst])


def _edges(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where the labels part: between all values when they are few, otherwise into equal portions."""
    values = np.unique(scores)
    if len(values) > MOST_LABELS:
        return np.unique(np.quantile(scores, np.linspace(0, 1, MOST_LABELS + 1)))[1:-1]
    return (values[:-1] + values[1:]) / 2


def _names(scores: npt.NDArray[np.float64], label: npt.NDArray[np.int64]) -> list[str]:
    names = []
    for number in range(int(label.max()) + 1):
        low, high = scores[label == number].min(), scores[label == number].max()
        names.append(f"{low:g}" if low == high else f"{low:.2f} to {high:.2f}")
    return names
