"""The arithmetic that turns a language model's token table into static word vectors. It knows no framework."""

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float32]

DIMENSIONS = 512
DROPPED = 3


def word_vectors(table: Table) -> Table:
    """Static vectors [tokens, up to 512] from a token table [tokens, hidden]. Deterministic.

    The mean and the first three principal components are common to all tokens and say nothing of meaning
    ("all but the top", Mu & Viswanath 2018). A row's length then weighs its token in the mean of a sentence: ids of a
    byte-pair vocabulary grow with rarity, so log(1 + id) plays the part of an inverse frequency.
    """
    centred = table.astype(np.float64) - table.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    components = vectors[:, ::-1][:, DROPPED : DROPPED + DIMENSIONS]
    # An eigenvector's sign is the linear algebra library's choice: make its largest entry positive.
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, np.arange(components.shape[1])])
    weights = np.log1p(np.arange(len(table)))
    scaled: Table = (centred @ components * weights[:, None]).astype(np.float32)
    return scaled
