"""All passages that a job knows, with a BM25 index over them: whose passage is a query, and which is nearest to one."""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from services.generation.pairs.comparison import normalised

if TYPE_CHECKING:
    import numpy as np

AS_GOOD = 0.9
"""A passage with this share of the own passage's score counts as one that is as good an answer."""
WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese put no spaces between words: their pairs of letters are indexed."""


class Standing(NamedTuple):
    """How a query's own passage stands among all of them."""

    better: int
    """So many others score higher."""
    as_good: int
    """So many others score as high, or nearly."""


class Corpus:
    """Passages, each taken once. Results depend on nothing but their texts and order."""

    def __init__(self, passages: Sequence[str]) -> None:
        """`passages`: at least one."""
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # its own level is DEBUG
        self.passages = list(dict.fromkeys(passages))
        self._places = {text: place for place, text in enumerate(self.passages)}
        self._index = bm25s.BM25()
        self._index.index([list(_words(text)) for text in self.passages], show_progress=False)

    def neighbour(self, passage: str) -> str | None:
        """The other passage that is most like this one; None if no other shares a word with it."""
        scores = self._scores(passage)
        scores[self._places[passage]] = 0.0
        best = int(scores.argmax())
        return self.passages[best] if scores[best] > 0 else None

    def standing(self, query: str, passage: str) -> Standing:
        """Where a passage stands when its query is searched for."""
        scores = self._scores(query)
        own = scores[self._places[passage]]
        better = int((scores > own).sum())
        return Standing(better, int((scores >= AS_GOOD * own).sum()) - 1 - better)

    def _scores(self, text: str) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """BM25 of every passage: [passages] float32."""
        known = self._index.get_tokens_ids(list(_words(text)))
        scores: np.ndarray[Any, np.dtype[np.float32]] = self._index.get_scores_from_ids(known)
        return scores


def _words(text: str) -> Iterator[str]:
    for word in normalised(text).split():
        if len(word) > 1 and WITHOUT_SPACES.fullmatch(word):
            yield from (word[start : start + 2] for start in range(len(word) - 1))
        else:
            yield word
