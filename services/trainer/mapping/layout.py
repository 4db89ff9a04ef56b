"""Vectors to points in the plane: t-SNE, by openTSNE. Texts that are near each other stay near.

openTSNE and not scikit-learn's: it takes neighbours that are known already, says how far it is, and is several times
as fast at 20,000 texts (docs/dataset.md has both times).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from openTSNE import TSNEEmbedding
from openTSNE.affinity import PerplexityBasedNN
from openTSNE.nearest_neighbors import PrecomputedNeighbors
from sklearn.decomposition import PCA

from services.trainer.mapping.nearest import Nearest, Vectors

NEIGHBOURS = 30
FEWEST = 12
"""With fewer texts, the two first principal components say as much."""
EARLY_STEPS, STEPS = 150, 350
REPORT_EVERY = 10
ALONE_UP_TO = 2000
"""Texts that one thread places: with two on busy cores, each step would wait for the slower one."""
SEED = 0


def coordinates(vectors: Vectors, found: Nearest, on_step: Callable[[int], None]) -> npt.NDArray[np.float64]:
    """Points [texts, 2], whatever the number of texts; `on_step` is called with the steps up to now."""
    start = _principal(vectors)
    if len(vectors) < FEWEST:
        return start
    distances = np.sqrt(np.maximum(0, 2 - 2 * found.cosines.astype(np.float64)))
    known = PrecomputedNeighbors(found.places.astype(np.int32), distances)
    threads = 1 if len(vectors) <= ALONE_UP_TO else -1
    affinities = PerplexityBasedNN(knn_index=known, perplexity=found.places.shape[1] / 3, n_jobs=threads)

    def report(before: int) -> Callable[[int, float, Any], None]:
        return lambda step, _error, _points: on_step(before + step)

    spread = max(float(start[:, 0].std()), 1e-12)
    points = TSNEEmbedding(start / spread * 1e-4, affinities, n_jobs=threads, random_state=SEED)
    options = {"callbacks_every_iters": REPORT_EVERY, "use_callbacks": True}
    points = points.optimize(EARLY_STEPS, exaggeration=12, momentum=0.5, callbacks=report(0), **options)
    points = points.optimize(STEPS, momentum=0.8, callbacks=report(EARLY_STEPS), **options)
    return np.asarray(points, np.float64)


def _principal(vectors: Vectors) -> npt.NDArray[np.float64]:
    """The two first principal components, [texts, 2]; zeros where there are none."""
    points = np.zeros((len(vectors), 2))
    kept = min(2, *vectors.shape)
    if len(vectors) > 1:
        with np.errstate(invalid="ignore"):  # where all vectors are the same, it divides by no variance
            points[:, :kept] = PCA(kept, svd_solver="randomized", random_state=SEED).fit_transform(vectors)
    return points
