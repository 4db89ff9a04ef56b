"""Which pairs of a user's texts students are measured on: some texts, each with partners from near to far.

How near a text is, base students say, which no round changes: all candidates are measured on the same pairs.
"""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from services.trainer.evaluation.sts import Encode, Row, unit
from services.trainer.models.static import Embeddings

Places = npt.NDArray[np.int64]

MOST_TEXTS = 10_000
"""Among which neighbours are looked for."""
ANCHORS = 150
"""Texts whose pairs are measured."""
RANKS, RANDOM = (1, 2, 4, 8, 16, 32, 64, 128), 2
"""Partners of an anchor: its nearest text, the second nearest and so on, and random ones. A student that is harmed
loses the middle distance first: what means the same in other words."""
POSITIVE, PASSAGE_RATIO = 0.75, 2.0
"""The score from which a query and a passage belong together, and how much longer passages are."""
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


class Search(NamedTuple):
    """Queries against passages."""

    queries: list[str]
    passages: list[str]
    own: Places
    """Of each query: the place of the passage that it belongs to; -1 where that is not among them."""
    pairs: Places
    """[pairs, 2]: places of a query and of a passage that is not its own."""

    def rows(self) -> list[tuple[str, str]]:
        """The pairs as texts."""
        return [(self.queries[one], self.passages[other]) for one, other in self.pairs.tolist()]


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


def queries_and_passages(rows: Sequence[Row], corpus: Iterable[str], students: Sequence[Encode]) -> Search | None:
    """Held-out queries and the passages of a corpus; None where sentences are no queries and passages.

    `rows`: pairs that are not trained on. Queries are the shorter side of positives, passages the longer side.
    """
    positives = {one: other for one, other, score in rows if score >= POSITIVE}
    lengths = [(len(one), len(other)) for one, other in positives.items()]
    if not lengths or not np.median([other / max(1, one) for one, other in lengths]) >= PASSAGE_RATIO:
        return None
    queries = sample_texts(positives, ANCHORS)
    passages = sample_texts([*positives.values(), *corpus])
    return search(queries, [positives.get(query, "") for query in queries], passages, students)


def held_out_search(
    queries: Sequence[tuple[str, str]], corpus: Iterable[str], students: Sequence[Encode]
) -> Search | None:
    """Queries with their passages against a sample of a corpus; None without queries."""
    own = dict(queries)
    asked = sample_texts(own, ANCHORS)
    passages = sample_texts([*(own[query] for query in asked), *sample_texts(corpus, MOST_TEXTS - len(asked))])
    return search(asked, [own[query] for query in asked], passages, students) if asked else None


def search(queries: list[str], own: list[str], passages: list[str], students: Sequence[Encode]) -> Search:
    """Queries, each with its own passage, against a corpus: partners of a query are as in `near_and_far`."""
    random = np.random.default_rng(0)
    place = {text: number for number, text in enumerate(passages)}
    own_places = np.array([place.get(text[:LONGEST], -1) for text in own], np.int64)
    pairs = {
        (query, int(other)) for query in range(len(queries)) for other in random.integers(len(passages), size=RANDOM)
    }
    for encode in students:
        similarities = unit(encode(queries)) @ unit(encode(passages)).T
        similarities[np.arange(len(queries))[own_places >= 0], own_places[own_places >= 0]] = -np.inf
        ranked = np.argsort(-similarities, axis=1)[:, [rank - 1 for rank in RANKS if rank < len(passages)]]
        pairs |= {(query, other) for query in range(len(queries)) for other in ranked[query].tolist()}
    pairs = {(query, other) for query, other in pairs if other != own_places[query]}
    return Search(queries, passages, own_places, np.array(sorted(pairs), np.int64))


def _without_unused(texts: list[str], pairs: list[tuple[int, int]]) -> TextPairs:
    """The same pairs over the texts that they need."""
    used = sorted({place for pair in pairs for place in pair})
    new = {place: number for number, place in enumerate(used)}
    numbered = [(new[one], new[other]) for one, other in pairs]
    return TextPairs([texts[place] for place in used], np.array(numbered, np.int64).reshape(-1, 2))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
