"""How far two embeddings put pairs of sentences in one order."""

import numpy as np


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Of all pairs of rows."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found: np.ndarray = (unit @ unit.T)[np.triu_indices(len(unit), k=1)]
    return found


def agreement(some: np.ndarray, others: np.ndarray) -> float:
    """Correlation of the cosines of all pairs of the same sentences."""
    return float(np.corrcoef(cosines(some), cosines(others))[0, 1])
