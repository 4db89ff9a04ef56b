"""Ridge regression of a static student's token embeddings on the teacher's embeddings of sentences. It needs no torch.

The tokens are moved so that their means come near the teacher embeddings of some thousand sentences: first all by one
linear map, then single tokens by what that leaves. Nothing is random. How the numbers were chosen: docs/quality.md.
"""

from typing import Any

import numpy as np

from services.trainer.models.static import Array, Embeddings, Table, principal_axes

FEWEST = 200  # fewer sentences are not worth loading the teacher for
COMPONENTS, WHITENING = 400, 0.5
"""Principal components of the teacher embeddings, each divided by its standard deviation to this power."""
NEGLIGIBLE = 1e-9  # a component with so small a share of the strongest one's variance is rounding
MAP_RIDGE, TOKEN_RIDGE = 1.0, 1.0
TOKEN_FREEDOM = 5.0
"""How far a single token may move; it is multiplied with the token's length, so that a function word hardly moves."""
OLD_SHARE, ENOUGH = 0.5, 2_000
"""The length of the student's old vectors in a sum of both spaces; with fewer than so many sentences it grows."""
ITERATIONS, TOLERANCE = 300, 1e-3


def fit_to_teacher(
    table: Table, bag_of_tokens: Any, teacher_embeddings: Embeddings, least_share: float = OLD_SHARE
) -> Table:
    """Token embeddings [tokens, dimensions] whose sentences are nearer to `teacher_embeddings` [sentences, hidden].

    `bag_of_tokens`: a SciPy CSR matrix [sentences, tokens] whose rows are the shares of each token in a sentence.
    `table`: the student's token embeddings; a row's length is its weight in a sentence's mean. `least_share`: the least
    length of the old vectors in the sum of both spaces.
    """
    target = distillation_target(teacher_embeddings)
    old = table.astype(np.float64)
    old /= np.sqrt(np.mean(np.sum((bag_of_tokens @ old) ** 2, axis=1)))
    sentences = bag_of_tokens @ old
    mapping = np.linalg.solve(sentences.T @ sentences + MAP_RIDGE * np.eye(old.shape[1]), sentences.T @ target)
    moved = old @ mapping + _move_single_tokens(old, bag_of_tokens, target - sentences @ mapping)
    share = max(least_share, OLD_SHARE * ENOUGH / len(teacher_embeddings))
    both = np.hstack([moved, share * old])
    fitted = (both @ principal_axes(both))[:, : table.shape[1]]
    # Rows stay as long on average as before: a learning rate then means the same.
    factor = np.linalg.norm(table, axis=1).mean() / max(float(np.linalg.norm(fitted, axis=1).mean()), 1e-12)
    return np.asarray(factor * fitted, np.float32)


def distillation_target(teacher_embeddings: Embeddings) -> Array:
    """Centred teacher embeddings, their strongest directions damped: unit vectors, [sentences, up to 400]."""
    centred = teacher_embeddings.astype(np.float64)
    centred -= centred.mean(axis=0)
    variances, components = np.linalg.eigh(centred.T @ centred / len(centred))
    real = int((variances > variances[-1] * NEGLIGIBLE).sum())  # quantized embeddings have fewer components
    count = min(COMPONENTS, len(centred) - 1, real)
    variances, components = variances[::-1][:count], components[:, ::-1][:, :count]
    return _unit(centred @ (components * np.maximum(variances, variances[0] * NEGLIGIBLE) ** (-WHITENING / 2)))


def rotate_to_principal_axes(table: Table, bag_of_tokens: Any) -> Table:
    """The same token embeddings, rotated so that the first dimensions tell most: a vector may then be cut short."""
    tokens = table.astype(np.float64)
    return np.asarray(tokens @ principal_axes(_unit(bag_of_tokens @ tokens)), np.float32)


def _move_single_tokens(old: Array, bag_of_tokens: Any, residual: Array) -> Array:
    """What each token adds to come nearer to `residual` [sentences, components], as ridge regression has it."""
    lengths = np.linalg.norm(old, axis=1)
    freedom = TOKEN_FREEDOM * lengths / max(float(lengths[lengths > 0].mean()), 1e-12)
    scaled = bag_of_tokens.multiply(freedom[None, :]).tocsr()
    # The dual form: there are fewer sentences than tokens, and the matrix of their overlaps is never written out.
    weights = _conjugate_gradients(lambda vectors: scaled @ (scaled.T @ vectors) + TOKEN_RIDGE * vectors, residual)
    return np.asarray((scaled.T @ weights) * freedom[:, None])


def _conjugate_gradients(apply: Any, right: Array) -> Array:
    """Solve `apply(x) = right` for all columns at one time, which SciPy can't; `apply` is symmetric and positive."""
    solution, residual = np.zeros_like(right), right.copy()
    direction, squared = residual.copy(), np.sum(residual**2, axis=0)
    enough = TOLERANCE**2 * np.maximum(squared, 1e-300)
    for _ in range(ITERATIONS):
        if (squared <= enough).all():
            break
        image = apply(direction)
        step = squared / np.maximum(np.sum(direction * image, axis=0), 1e-300)
        solution += step * direction
        residual -= step * image
        before, squared = squared, np.sum(residual**2, axis=0)
        direction = residual + squared / np.maximum(before, 1e-300) * direction
    return solution


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
