"""All passages that a job knows, with a BM25 index over them: whose passage is a query, and which is nearest to one."""

import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from services.generation.pairs.comparison import normalised
from services.generation.pairs.seeds import sample_seed

AS_GOOD = 0.9
"""A passage with this share of the own passage's score counts as one that is as good an answer."""
K1, B = 1.2, 0.75
MOST_ORDERS = 8
"""Kept at one time: jobs of several seeds draw from one corpus in turns."""
WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese put no spaces between words: their pairs of letters are indexed."""


class Standing(NamedTuple):
    """How a query's own passage stands among all of them."""

    better: int
    """So many others score higher."""
    as_good: int
    """So many others score as high, or nearly."""


class Bm25:
    """An index of texts, with Lucene's formula and constants (Robertson & Zaragoza 2009).

    Ours because bm25s imports numba where that is installed, and vLLM 0.32 does not start after that.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._size = len(texts)
        self._places: dict[str, array[int]] = {}
        self._weights: dict[str, array[float]] = {}
        lengths = array("i")
        for place, text in enumerate(texts):
            counts = Counter(_words(text))
            lengths.append(counts.total())
            for word, count in counts.items():
                self._places.setdefault(word, array("i")).append(place)
                self._weights.setdefault(word, array("f")).append(count)
        norms = K1 * (1 - B + B * np.asarray(lengths) / max(1.0, sum(lengths) / max(1, self._size)))
        for word, places in self._places.items():
            rarity = math.log(1 + (self._size - len(places) + 0.5) / (len(places) + 0.5))
            counts_of_word = np.frombuffer(self._weights[word], np.float32)
            weights = rarity * counts_of_word / (counts_of_word + norms[np.frombuffer(places, np.int32)])
            self._weights[word] = array("f", weights.astype(np.float32).tobytes())

    def has_word(self, word: str) -> bool:
        """Whether any text has it."""
        return word in self._places

    def scores(self, text: str) -> npt.NDArray[np.float32]:
        """Of every text for this one: [texts] float32, 0 where they share no word."""
        scores = np.zeros(self._size, np.float32)
        for word in _words(text):
            if word in self._places:
                scores[np.frombuffer(self._places[word], np.int32)] += np.frombuffer(self._weights[word], np.float32)
        return scores


class Corpus:
    """Passages, each taken once. Results depend on nothing but their texts and order."""

    def __init__(self, passages: Sequence[str]) -> None:
        """`passages`: at least one."""
        self.passages = list(dict.fromkeys(passages))
        self._places = {text: place for place, text in enumerate(self.passages)}
        self._orders: dict[tuple[int, int], list[str]] = {}
        self._index = Bm25(self.passages)

    def __contains__(self, passage: str) -> bool:
        return passage in self._places

    def has_word(self, word: str) -> bool:
        """Whether any passage has a word, in `normalised` form."""
        return self._index.has_word(word)

    def drawn(self, seed: int, number: int) -> str:
        """Passage `number` of an endless list: all of them again and again, each time in another order of the seed's.

        The order of the others stays when a passage is taken out.
        """
        turn, place = divmod(number, len(self.passages))
        if (seed, turn) not in self._orders:
            if len(self._orders) == MOST_ORDERS:
                self._orders.pop(next(iter(self._orders)))
            order = sorted(self.passages, key=lambda text: sample_seed(seed, "passage", turn, text))
            self._orders[seed, turn] = order
        return self._orders[seed, turn][place]

    def neighbour(self, passage: str) -> str | None:
        """The other passage that is most like this one; None if no other shares a word with it."""
        scores = self._index.scores(passage)
        scores[self._places[passage]] = 0.0
        best = int(scores.argmax())
        return self.passages[best] if scores[best] > 0 else None

    def standing(self, query: str, passage: str) -> Standing:
        """Where a passage stands when its query is searched for."""
        scores = self._index.scores(query)
        own = scores[self._places[passage]]
        better = int((scores > own).sum())
        return Standing(better, int((scores >= AS_GOOD * own).sum()) - 1 - better)


def _words(text: str) -> Iterator[str]:
    for word in normalised(text).split():
        if len(word) > 1 and WITHOUT_SPACES.fullmatch(word):
            yield from (word[start : start + 2] for start in range(len(word) - 1))
        else:
            yield word
