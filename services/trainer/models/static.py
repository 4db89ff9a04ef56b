"""The arithmetic that turns a language model's token table into static token embeddings. It needs no torch."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float32]
"""Token embeddings, [tokens, dimensions]."""
Embeddings = npt.NDArray[np.float32]
"""One vector a text, [texts, dimensions]."""
Array = npt.NDArray[np.float64]

DIMENSIONS = 512
DROPPED = 3
HALF_WEIGHT = 1000
"""The id at which a token has half of the largest weight."""
SPACES = ("\u0120", "\u2581")
"""What stands for a leading space in byte-level and in SentencePiece vocabularies."""


def fingerprint(table: Table) -> str:
    """Names a teacher by its token table."""
    return hashlib.sha256(np.ascontiguousarray(table, np.float32).tobytes()).hexdigest()


def word_vectors(table: Table, tokens: Sequence[str]) -> Table:
    """Static vectors [tokens, up to 512] from a token table [tokens, hidden]. Deterministic.

    `tokens` are the vocabulary by id; those that differ in case or leading space only share one vector. The mean and
    three principal components say nothing of meaning ("all but the top", Mu & Viswanath 2018). A row's length weighs
    its token in a mean: ids of a byte-pair vocabulary grow with rarity, so Zipf's law makes id / (id + c) of a smooth
    inverse frequency's a / (a + p) (Arora et al. 2017). How these were chosen: docs/quality.md.
    """
    merged, ids = _merge_spellings(table.astype(np.float64), tokens)
    centred = merged - merged.mean(axis=0)
    components = principal_axes(centred)[:, DROPPED : DROPPED + DIMENSIONS]
    # The factor keeps the rows as long as they need to be for the recipe's learning rate.
    weights = np.log1p(len(table)) * ids / (ids + HALF_WEIGHT)
    return np.asarray(centred @ components * weights[:, None], np.float32)


def principal_axes(rows: Array) -> Array:
    """Eigenvectors of the rows' second moment: [dimensions, dimensions], the strongest first.

    The sign is the library's choice: the largest entry is made positive. scikit-learn's PCA rounds otherwise.
    """
    axes = np.linalg.eigh(rows.T @ rows)[1][:, ::-1]
    largest = np.abs(axes).argmax(axis=0)
    return np.asarray(axes * np.sign(axes[largest, np.arange(axes.shape[1])]))


def _merge_spellings(table: Array, tokens: Sequence[str]) -> tuple[Array, Array]:
    """The table with the mean of a word's spellings in all of their rows, and the id by which each row is weighed."""
    spellings: dict[str, list[int]] = {}
    for number, token in enumerate(tokens):
        word = (token[1:] if token.startswith(SPACES) else token).lower()
        if word.isalpha():
            spellings.setdefault(word, []).append(number)
    merged, ids = table.copy(), np.arange(len(table), dtype=np.float64)
    for rows in spellings.values():
        merged[rows] = table[rows].mean(axis=0)
        # Inside a text a word has a space before it; the form without one may be the piece of another word.
        ids[rows] = min([number for number in rows if tokens[number].startswith(SPACES)] or rows)
    return merged, ids
