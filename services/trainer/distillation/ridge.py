"""The arithmetic by which a static student learns what the teacher sees in sentences. It knows no framework.

A static student embeds a sentence as the mean of its words. The words are moved so that these means come near the
teacher's views (`one_word`) of some thousand sentences: first all words by one linear map, then single words by what
that leaves. Both are ridge regressions: there is nothing to tune by looking, and nothing random. How the numbers were
chosen, without human scores, and what the student gains: docs/quality.md.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from services.trainer.models.static import Table

Array = npt.NDArray[np.float64]

FEWEST = 200
"""Fewer sentences are not worth loading the teacher for."""
COMPONENTS, WHITENING = 400, 0.5
"""Of the views: so many principal components, each divided by its standard deviation to this power."""
NOTHING = 1e-9
"""A component with so small a share of the strongest one's variance is arithmetic."""
MAP_RIDGE, WORD_RIDGE = 1.0, 1.0
WORD_FREEDOM = 5.0
"""How far a single word may move; it is multiplied with the word's length, so that a function word hardly moves."""
OLD_SHARE, ENOUGH = 0.5, 2_000
"""What stays of the student beside what it learns: the length of its old vectors in a sum of both spaces, with so many
sentences or more; with fewer it grows as they get fewer."""
ITERATIONS, SMALL = 300, 1e-3


def fit_to_teacher(table: Table, bags: Any, views: npt.NDArray[np.float32]) -> Table:
    """The student's word vectors [tokens, dimensions], nearer to the teacher's `views` [sentences, hidden].

    `bags`: a SciPy CSR matrix [sentences, tokens] whose rows are the shares of each token in a sentence; each row of
    `table` has its weight in a sentence's mean as its length.
    """
    wanted = targets(views)
    old = table.astype(np.float64)
    old /= np.sqrt(np.mean(np.sum((bags @ old) ** 2, axis=1)))
    means = bags @ old
    mapping = np.linalg.solve(means.T @ means + MAP_RIDGE * np.eye(old.shape[1]), means.T @ wanted)
    moved = old @ mapping + _of_single_words(old, bags, wanted - means @ mapping)
    share = OLD_SHARE * max(1.0, ENOUGH / len(views))
    return _as_long_as(table, _main_components(np.hstack([moved, share * old]), table.shape[1]))


def targets(views: npt.NDArray[np.float32]) -> Array:
    """Views without what they have in common, their strongest directions damped: unit vectors, [sentences, 400]."""
    centred = views.astype(np.float64)
    centred -= centred.mean(axis=0)
    values, components = np.linalg.eigh(centred.T @ centred / len(centred))
    known = int((values > values[-1] * NOTHING).sum())  # views may have been kept with fewer components than they had
    count = min(COMPONENTS, len(views) - 1, known)
    values, components = values[::-1][:count], components[:, ::-1][:, :count]
    scaled = centred @ (components * np.maximum(values, values[0] * NOTHING) ** (-WHITENING / 2))
    unit: Array = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    return unit


def rotate_to_principal_axes(table: Table, bags: Any) -> Table:
    """The same words, turned so that the first dimensions tell most of sentences apart: a vector may be cut short.

    No cosine of two whole vectors changes. `bags` as for `learned`.
    """
    means = bags @ table.astype(np.float64)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    found: Table = _along(table.astype(np.float64), np.linalg.eigh(means.T @ means)[1]).astype(np.float32)
    return found


def _of_single_words(old: Array, bags: Any, missing: Array) -> Array:
    """What each word adds to come nearer to `missing` [sentences, components], as ridge regression has it."""
    lengths = np.linalg.norm(old, axis=1)
    freedom = WORD_FREEDOM * lengths / max(float(lengths[lengths > 0].mean()), 1e-12)
    free = bags.multiply(freedom[None, :]).tocsr()
    # The dual form: there are fewer sentences than words, and the matrix of their overlaps is never written out.
    weights = _conjugate_gradients(lambda some: free @ (free.T @ some) + WORD_RIDGE * some, missing)
    moved: Array = (free.T @ weights) * freedom[:, None]
    return moved


def _conjugate_gradients(apply: Any, wanted: Array) -> Array:
    """Solve `apply(x) = wanted` for every column at one time; `apply` is symmetric and positive."""
    found, residual = np.zeros_like(wanted), wanted.copy()
    direction, squared = residual.copy(), np.sum(residual**2, axis=0)
    enough = SMALL**2 * np.maximum(squared, 1e-300)
    for _ in range(ITERATIONS):
        if (squared <= enough).all():
            break
        moved = apply(direction)
        step = squared / np.maximum(np.sum(direction * moved, axis=0), 1e-300)
        found += step * direction
        residual -= step * moved
        before, squared = squared, np.sum(residual**2, axis=0)
        direction = residual + squared / np.maximum(before, 1e-300) * direction
    return found


def _main_components(table: Array, count: int) -> Array:
    """The same words in fewer dimensions."""
    return _along(table, np.linalg.eigh(table.T @ table)[1])[:, :count]


def _along(table: Array, components: Array) -> Array:
    """The table along `components` [dimensions, components], the last one first. A component's sign is made the same
    everywhere.
    """
    components = components[:, ::-1]
    largest = np.abs(components).argmax(axis=0)
    found: Array = table @ (components * np.sign(components[largest, np.arange(components.shape[1])]))
    return found


def _as_long_as(table: Table, other: Array) -> Table:
    """`other` with rows as long on average as `table`'s: a learning rate then means the same for both."""
    factor = np.linalg.norm(table, axis=1).mean() / max(float(np.linalg.norm(other, axis=1).mean()), 1e-12)
    scaled: Table = (factor * other).astype(np.float32)
    return scaled
