"""What a corpus says of its own words, given to a student: latent semantic analysis (Deerwester et al. 1990).

A static student knows what words mean, and not which of them tell this corpus' passages apart: it retrieves worse than
TF-IDF. So a token weighs as much as it is rare in the corpus, and some dimensions become the corpus' own: the truncated
SVD of the passages' weighted counts gives each token a vector there, and the mean of those over a text is that text's
fold-in. Tokens that are frequent in general text change less: sentences of no domain shall keep their cosines.

A transformer gets no dimensions but a linear map of its vectors: what of this analysis can be read from them counts
more in their cosines. How the numbers were chosen, without human judgements: docs/quality.md.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import diags
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from services.trainer.distillation.ridge import rotate_to_principal_axes
from services.trainer.evaluation.sts import unit
from services.trainer.models.static import Array, Table

FEWEST, MOST = 20, 20_000
"""Passages: fewer say nothing of words, and of more a sample says the same."""
SHARE = 0.625
"""Of the dimensions: the corpus' own, if it has passages for so many."""
RARITY, GENERAL = 0.75, 5.0
"""To which power a token's inverse document frequency weighs its old vector, and how much its frequency in general text
takes from that power."""
TERMS_GENERAL = 0.3
"""How much the frequency in general text takes from a token's weight in the corpus' own dimensions."""
POWER = 2  # iterations of the randomized SVD: one gives the same ranks
LEAST = 0.05
"""Inverse document frequency of a token that every passage has."""
COMPONENTS, TERMS, RIDGE = 640, 0.5, 0.1
"""Of a transformer's map: dimensions of the analysis, the share that they have in a cosine, and the penalty of the
regression on them, as a share of the mean eigenvalue."""


def add_corpus_terms(table: Table, passages: Any, general: Any) -> Table:
    """Token embeddings of the same shape, of which some dimensions are the corpus' own.

    `table`: a static student's, [tokens, dimensions]. `passages`, `general`: of the corpus and of general text, SciPy
    CSR matrices [texts, tokens] whose rows are the shares of each token in a text.
    """
    dimensions, words = table.shape[1], _words(passages, general)
    count = min(int(SHARE * dimensions), passages.shape[0] - 1, len(words.used) - 1)
    terms = np.zeros((len(table), count))
    terms[words.used] = _latent_vectors(passages[:, words.used], words.weights, count)
    # What is cut off is what general text needs least.
    old = rotate_to_principal_axes(table, general)[:, : dimensions - count].astype(np.float64)
    relative = np.maximum(words.rarity, LEAST) / max(float(np.median(words.rarity)), LEAST)
    old[words.used] *= relative[:, None] ** (RARITY * words.owned(GENERAL))[:, None]
    both = np.hstack([_scaled(old, passages), _scaled(terms, passages)])
    # Rows stay as long on average as before: a learning rate then means the same.
    factor = np.linalg.norm(table, axis=1).mean() / max(float(np.linalg.norm(both, axis=1).mean()), 1e-12)
    return rotate_to_principal_axes(np.asarray(factor * both, np.float32), passages)


def corpus_linear_map(vectors: Table, passages: Any, general: Any) -> Table:
    """A symmetrical map of a student's vectors, [dimensions, dimensions], that leaves directions as long as they are.

    `vectors`: of the passages, [passages, dimensions]. `passages`, `general`: as for `add_corpus_terms`, of the tokens
    of any tokenizer. A ridge regression reads the passages' analysis from their vectors; a cosine of mapped vectors is
    then the mean of the old one and of the analysis' as it is read.
    """
    words, directions = _words(passages, general), unit(vectors.astype(np.float64))
    counts = passages[:, words.used]
    counts.sum_duplicates()
    counts = counts.sqrt()  # the tenth mention of a word says little more than the fifth
    components = min(COMPONENTS, counts.shape[0] - 1, len(words.used) - 1)
    analysis = unit(counts @ _latent_vectors(counts, words.weights, components))
    products, identity = directions.T @ directions, np.eye(vectors.shape[1])
    penalty = RIDGE * np.trace(products) / len(products)
    read = np.linalg.solve(products + penalty * identity, directions.T @ analysis)
    read /= max(float(np.sqrt(np.mean(np.sum((directions @ read) ** 2, axis=1)))), 1e-12)
    values, axes = np.linalg.eigh((1 - TERMS) * identity + TERMS * read @ read.T)
    return np.asarray((axes * np.sqrt(np.maximum(values, 0))) @ axes.T, np.float32)


class _Words(NamedTuple):
    """The tokens that a corpus has."""

    used: npt.NDArray[np.int64]
    """Their numbers; the rest is in their order."""
    rarity: Array
    """Inverse document frequencies."""
    own: Array
    elsewhere: Array
    """Their shares in the corpus and in general text."""

    def owned(self, general: float) -> Array:
        """How much of them is the corpus' own, from 0 to 1, where general text counts so much."""
        return np.asarray(self.own / (self.own + general * self.elsewhere))

    @property
    def weights(self) -> Array:
        """For the analysis."""
        return np.asarray(self.rarity * self.owned(TERMS_GENERAL))


def _words(passages: Any, general: Any) -> _Words:
    frequency = np.asarray((passages > 0).sum(axis=0), np.float64).ravel()
    used = np.flatnonzero(frequency)
    rarity = np.log((passages.shape[0] + 1) / (frequency[used] + 0.5))
    return _Words(used, rarity, _shares(passages)[used], _shares(general)[used])


def _latent_vectors(passages: Any, weights: Array, components: int) -> Array:
    """Of each token of the corpus, [tokens, components]."""
    _, _, axes = randomized_svd(normalize(passages @ diags(weights)), components, n_iter=POWER, random_state=0)
    return np.asarray(axes.T * weights[:, None], np.float64)


def _shares(bag_of_tokens: Any) -> npt.NDArray[np.float64]:
    """Of each token in all texts, [tokens]."""
    sums = np.asarray(bag_of_tokens.sum(axis=0), np.float64).ravel()
    return np.asarray(sums / max(float(sums.sum()), 1e-12))


def _scaled(tokens: Array, passages: Any) -> Array:
    """So that the vectors of passages have a mean square length of 1."""
    lengths = np.sqrt(np.mean(np.sum((passages @ tokens) ** 2, axis=1)))
    return np.asarray(tokens / max(float(lengths), 1e-12))
