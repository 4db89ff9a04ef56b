"""Groups of texts that are near each other, and the words that tell each from the others."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.cluster import MiniBatchKMeans
from sklearn.feature_extraction.text import CountVectorizer

from services.trainer.mapping.nearest import Vectors

TEXTS_A_CLUSTER, MOST_CLUSTERS = 20, 40
WORDS, FEWEST_TEXTS = 5, 2
SEED = 0


class Cluster(NamedTuple):
    """Texts that are near each other."""

    words: list[str]
    """The most telling first; [] where no word is in two of its texts."""
    size: int


def cluster(vectors: Vectors, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], list[Cluster]]:
    """The cluster of each of the unit vectors [texts, dimensions], and the clusters, the largest first."""
    if not texts:
        return np.zeros(0, np.int64), []
    count = min(MOST_CLUSTERS, len(texts), max(1, round(math.sqrt(len(texts) / TEXTS_A_CLUSTER))))
    found = MiniBatchKMeans(count, random_state=SEED, n_init=3).fit_predict(vectors)
    names, of_text, sizes = np.unique(found, return_inverse=True, return_counts=True)  # one may have come out empty
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    labels = rank[of_text]
    words = _words(texts, labels, len(names))
    return labels, [Cluster(words[number], int(sizes[order[number]])) for number in range(len(names))]


def _words(texts: Sequence[str], labels: npt.NDArray[np.int64], count: int) -> list[list[str]]:
    """Words that are in more of a cluster's texts than of all, by their share times the squared log of the ratio.

    Squared, since words of grammar are in many texts of a cluster and in nearly as many elsewhere.
    """
    counter = CountVectorizer(binary=True, max_features=50_000, dtype=np.int32)
    try:
        has = counter.fit_transform(texts)
    except ValueError:  # no text has a word
        return [[] for _ in range(count)]
    names, everywhere = counter.get_feature_names_out(), np.asarray(has.sum(axis=0)).ravel() / len(texts)
    chosen = []
    for number in range(count):
        rows = labels == number
        here = np.asarray(has[rows].sum(axis=0)).ravel()
        share = here / rows.sum()
        gain = np.log(np.maximum(share, 1e-12) / everywhere).clip(0)
        weight = np.where(here >= FEWEST_TEXTS, share * gain**2, 0)
        top = np.argsort(-weight, kind="stable")[:WORDS]
        chosen.append([str(names[place]) for place in top if weight[place] > 0 or (count == 1 and here[place] > 1)])
    return chosen
