"""Hard negatives: for each query a passage that search puts high and that is not its own.

Two searches propose, the student's and TF-IDF's, and their ranks are fused (Cormack et al. 2009). What is nearly as
near as the own passage may answer the query too, and is left out (NV-Retriever's margin, Moreira et al. 2024).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer

from services.trainer.dataset.arrow import TableWriter
from services.trainer.evaluation.sts import Encode, unit
from services.trainer.training.split import TRIPLETS

DEPTH, SMOOTHING = 30, 60
"""Passages that each search proposes, and what is added to a rank before ranks are fused."""
MARGIN = 0.95
"""The largest share of the own passage's cosine that a negative may have, both counted from the mean passage's."""
BLOCK = 250
"""Queries whose scores of all passages are in memory at one time."""

Scores = npt.NDArray[np.float32]


def write_triplets(queries: Sequence[tuple[str, str]], passages: Sequence[str], encode: Encode, file: Path) -> int:
    """Write each query with its passage and a negative, as training takes them; how many have one.

    `queries` with their passages, which may be missing among `passages`.
    """
    vectors = unit(encode(passages))
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, token_pattern=r"(?u)\b\w+\b")
    words = vectorizer.fit_transform(passages).T.tocsr()
    with TableWriter(file, TRIPLETS) as writer:
        for first in range(0, len(queries), BLOCK):
            block = queries[first : first + BLOCK]
            asked, own = [query for query, _ in block], unit(encode([passage for _, passage in block]))
            directions = unit(encode(asked))
            cosines = np.asarray(directions @ vectors.T, np.float32)
            shared = np.asarray((vectorizer.transform(asked) @ words).toarray(), np.float32)
            means = cosines.mean(axis=1)  # all cosines of an untrained transformer are near 1
            limits = means + MARGIN * (np.einsum("ij,ij->i", directions, own) - means)
            for number, (query, passage) in enumerate(block):
                allowed = (place for place in _fused(cosines[number], shared[number]) if passages[place] != passage)
                negative = next((place for place in allowed if cosines[number][place] <= limits[number]), None)
                if negative is not None:
                    writer.write((query, passage, passages[negative]))
        return writer.rows


def _fused(*searches: Scores) -> list[int]:
    """The places that searches put first, the best of all first."""
    fused = dict[int, float]()
    for scores in searches:
        depth = min(DEPTH, len(scores))
        first = np.argpartition(-scores, depth - 1)[:depth]
        for rank, place in enumerate(first[np.argsort(-scores[first], kind="stable")].tolist()):
            fused[place] = fused.get(place, 0.0) + 1 / (SMOOTHING + rank)
    return sorted(fused, key=lambda place: (-fused[place], place))
