"""From a dataset and a version to the map that a person looks at."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from services.trainer.dataset.sampling import SampledText
from services.trainer.mapping.clusters import cluster
from services.trainer.mapping.layout import EARLY_STEPS, NEIGHBOURS, STEPS, coordinates
from services.trainer.mapping.nearest import Vectors, duplicates, nearest

SHOWN_NEIGHBOURS, SHOWN_CHARS = 5, 300
ENCODED_AT_ONCE = 1000

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
Report = Callable[[str, int, int], None]
"""Is called with what goes on, how much of it is done, and of how much."""


def build_map(
    version: str, texts: Sequence[SampledText], surprises: Mapping[str, float], encode: Encode, report: Report
) -> dict[str, Any]:
    """The map, ready for JSON; `points` holds a column for each fact of a text. `surprises` are by text."""
    count, contents = len(texts), [one.text for one in texts]
    vectors = _unit_vectors(contents, encode, report)
    found = nearest(vectors, NEIGHBOURS, lambda done: report("finding neighbours", done, count))
    labels, clusters = cluster(vectors, contents)
    steps = EARLY_STEPS + STEPS
    points = np.round(coordinates(vectors, found, lambda done: report("placing", done, steps)), 3)
    return {
        "version": version,
        "computed": datetime.now(UTC).isoformat(timespec="seconds"),
        "points": {
            "x": points[:, 0].tolist(),
            "y": points[:, 1].tolist(),
            "id": [one.id for one in texts],
            "text": [text[:SHOWN_CHARS] for text in contents],
            "kind": [one.kind for one in texts],
            "label": [one.label for one in texts],
            "source": [one.source for one in texts],
            "surprise": [round(surprises[text], 3) if text in surprises else None for text in contents],
            "cluster": labels.tolist(),
            "neighbours": found.places[:, :SHOWN_NEIGHBOURS].tolist(),
            "duplicate_of": duplicates(found),
        },
        "clusters": [{"id": number} | one._asdict() for number, one in enumerate(clusters)],
    }


def _unit_vectors(texts: Sequence[str], encode: Encode, report: Report) -> Vectors:
    """Unit vectors [texts, dimensions]; of a text without a word that the version knows, zeros."""
    parts = []
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        report("embedding", start, len(texts))
        parts.append(encode(texts[start : start + ENCODED_AT_ONCE]))
    vectors = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    return unit
