"""The nearest texts of each text by exact cosine, and which are nearly the same."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
ROWS = 1000
NEARLY_SAME = 0.97
"""The cosine from which two texts count as near duplicates."""


class Nearest(NamedTuple):
    """The nearest texts of each text, the nearest first."""

    places: npt.NDArray[np.int64]
    """[texts, neighbours]"""
    cosines: npt.NDArray[np.float32]
    """[texts, neighbours]"""


def nearest(vectors: Vectors, most: int, on_rows: Callable[[int], None]) -> Nearest:
    """At most so many neighbours of each of the unit vectors [texts, dimensions]; all texts are compared with all."""
    most = min(most, len(vectors) - 1)
    places = np.zeros((len(vectors), max(most, 0)), np.int64)
    cosines = np.zeros(places.shape, np.float32)
    for start in range(0, len(vectors) if most > 0 else 0, ROWS):
        rows = slice(start, start + ROWS)
        all_cosines = vectors[rows] @ vectors.T
        own = np.arange(len(all_cosines))
        all_cosines[own, start + own] = -np.inf
        top = np.argpartition(-all_cosines, most - 1, axis=1)[:, :most]
        values = np.take_along_axis(all_cosines, top, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        places[rows] = np.take_along_axis(top, order, axis=1)
        cosines[rows] = np.take_along_axis(values, order, axis=1)
        on_rows(min(start + ROWS, len(vectors)))
    return Nearest(places, cosines)


def duplicates(found: Nearest) -> list[int | None]:
    """For each text, the first text before it among its neighbours that is nearly the same."""
    same = []
    for place, (others, cosines) in enumerate(zip(found.places, found.cosines, strict=True)):
        before = others[(cosines >= NEARLY_SAME) & (others < place)]
        same.append(int(before.min()) if len(before) else None)
    return same
