"""Which pairs of a user's texts students are measured on: some texts, each with partners from near to far.

How near a text is, base students say, which no round changes: all candidates are measured on the same pairs.
"""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from services.trainer.evaluation.sts import Row, unit
from services.trainer.models.static import Embeddings

Places = npt.NDArray[np.int64]

MOST_TEXTS = 10_000
"""Among which neighbours are looked for."""
ANCHORS = 150
"""Texts whose pairs are measured."""
RANKS, RANDOM = (1, 2, 4, 8, 16, 32, 64, 128), 2
"""Partners of an anchor: its nearest text, the second nearest and so on, and random ones. A student that is harmed
loses the middle distance first: what means the same in other words."""
LONGEST = 2_000
"""Characters of a text that are used."""


class TextPairs(NamedTuple):
    """Pairs of texts."""

    texts: list[str]
    pairs: Places
    """[pairs, 2]: places in `texts`, of an anchor and of a partner; an anchor's pairs are together."""

    @property
    def anchors(self) -> Places:
        """Of each pair."""
        return self.pairs[:, 0]

    def rows(self) -> list[tuple[str, str]]:
        """The pairs as texts."""
        return [(self.texts[one], self.texts[other]) for one, other in self.pairs.tolist()]

    def cosines(self, vectors: Embeddings) -> npt.NDArray[np.float64]:
        """Of each pair, [pairs], from the vectors of `texts`."""
        left, right = unit(vectors[self.pairs[:, 0]]), unit(vectors[self.pairs[:, 1]])
        return np.asarray(np.einsum("ij,ij->i", left, right), np.float64)


def sample_texts(texts: Iterable[str], most: int = MOST_TEXTS) -> list[str]:
    """At most so many different texts, chosen and ordered by a hash: a corpus that grows keeps most of its sample."""
    by_hash = {_digest(text): text[:LONGEST] for text in texts if text.strip()}
    return [by_hash[key] for key in heapq.nsmallest(most, by_hash)]


def near_and_far(texts: list[str], students: Sequence[Embeddings]) -> TextPairs:
    """The first texts, each with its neighbours at `RANKS` by each student. `students`: their vectors of `texts`."""
    random = np.random.default_rng(0)
    anchors = min(ANCHORS, len(texts))
    pairs = {(anchor, int(other)) for anchor in range(anchors) for other in random.integers(len(texts), size=RANDOM)}
    for vectors in students:
        directions = unit(vectors)
        similarities = directions[:anchors] @ directions.T
        np.fill_diagonal(similarities, -np.inf)
        ranked = np.argsort(-similarities, axis=1)[:, [rank - 1 for rank in RANKS if rank < len(texts)]]
        pairs |= {(anchor, other) for anchor in range(anchors) for other in ranked[anchor].tolist()}
    return _without_unused(texts, sorted((one, other) for one, other in pairs if one != other))


def own_and_others(dev: Sequence[Row]) -> TextPairs:
    """Some first sentences of pairs, each with its own second sentences and with those of others.

    Of each score, the others are as many as the own: what the teacher writes for a score has a style, and a student
    that has learnt the style alone must not look better for it.
    """
    groups: dict[str, list[Row]] = {}
    for row in dev:
        groups.setdefault(row[0], []).append(row)
    chosen = [row for one in sample_texts(groups, ANCHORS) for row in groups.get(one, [])]
    texts = list(dict.fromkeys(text for row in chosen for text in row[:2]))
    place = {text: number for number, text in enumerate(texts)}
    pairs = {(place[one], place[other]) for one, other, _ in chosen}
    for score in sorted({row[2] for row in chosen}):
        same = [row for row in chosen if row[2] == score]
        shift = 1 + len(same) // 2  # the partner of a sentence that is half the list away
        pairs |= {(place[row[0]], place[same[(n + shift) % len(same)][1]]) for n, row in enumerate(same)}
    return _without_unused(texts, sorted((one, other) for one, other in pairs if one != other))


def _without_unused(texts: list[str], pairs: list[tuple[int, int]]) -> TextPairs:
    """The same pairs over the texts that they need."""
    used = sorted({place for pair in pairs for place in pair})
    new = {place: number for number, place in enumerate(used)}
    numbered = [(new[one], new[other]) for one, other in pairs]
    return TextPairs([texts[place] for place in used], np.array(numbered, np.int64).reshape(-1, 2))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
