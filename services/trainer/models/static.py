"""The arithmetic that turns a language model's token table into static word vectors. It knows no framework."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float32]

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

    `tokens` are the vocabulary by id; those that differ in case or leading space only share one vector: a sentence's
    first word is the same word. The mean and the first three principal components are common to all tokens and say
    nothing of meaning ("all but the top", Mu & Viswanath 2018). A row's length then weighs its token in the mean of a
    sentence: ids of a byte-pair vocabulary grow with rarity, so Zipf's law makes id / (id + c) of a smooth inverse
    frequency's a / (a + p) (Arora et al. 2017). How these were chosen: docs/quality.md.
    """
    folded, ids = _one_row_a_word(table.astype(np.float64), tokens)
    centred = folded - folded.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    components = vectors[:, ::-1][:, DROPPED : DROPPED + DIMENSIONS]
    # An eigenvector's sign is the linear algebra library's choice: make its largest entry positive.
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, np.arange(components.shape[1])])
    # The factor keeps the rows as long as they need to be for the recipe's learning rate.
    weights = np.log1p(len(table)) * ids / (ids + HALF_WEIGHT)
    scaled: Table = (centred @ components * weights[:, None]).astype(np.float32)
    return scaled


def _one_row_a_word(
    table: npt.NDArray[np.float64], tokens: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The table with the mean of a word's spellings in all of their rows, and the id by which each row is weighed."""
    spellings: dict[str, list[int]] = {}
    for number, token in enumerate(tokens):
        word = _bare(token).lower()
        if word.isalpha():
            spellings.setdefault(word, []).append(number)
    folded, ids = table.copy(), np.arange(len(table), dtype=np.float64)
    for members in spellings.values():
        folded[members] = table[members].mean(axis=0)
        # Inside a text a word has a space before it; the form without one may be the piece of another word.
        ids[members] = min([number for number in members if tokens[number].startswith(SPACES)] or members)
    return folded, ids


def _bare(token: str) -> str:
    return token[1:] if token.startswith(SPACES) else token
