"""Random partners: sentences that have nothing to do with a given one, which no instruction asks a teacher for."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice

import numpy as np
import pyarrow as pa

GROUPS, SPARE, FEW = 2_000, 8, 64


def digest(text: str) -> bytes:
    """Eight bytes that stand for a sentence: a set of millions of them fits into memory."""
    return blake2b(text.encode(), digest_size=8).digest()


class Partners:
    """Draws from the sentence2 of a table of training pairs, without the sentences whose digest is in `excluded`."""

    def __init__(self, table: pa.Table, seed: int, excluded: set[bytes]) -> None:
        self._sentences, self._excluded = table.column("sentence2"), excluded
        self._random = np.random.default_rng(seed)

    def draw(self, groups: Iterable[tuple[str, set[str]]], count: int) -> Iterator[list[str]]:
        """For each sentence, `count` different others outside its own set; fewer where there are no more."""
        remaining = iter(groups)
        while portion := list(islice(remaining, GROUPS)):
            width = min(len(self._sentences), count + SPARE)
            drawn = self._random.integers(0, len(self._sentences), (len(portion), width))
            texts = self._sentences.take(pa.array(drawn.ravel())).to_pylist()
            for number, (sentence, own) in enumerate(portion):
                partners = self._allowed(sentence, own, texts[number * width : (number + 1) * width])[:count]
                if len(partners) < count:
                    partners = self._allowed(sentence, own, self._all_or_many())[:count]
                yield partners

    def _allowed(self, sentence: str, own: set[str], candidates: list[str]) -> list[str]:
        others = [text for text in dict.fromkeys(candidates) if text != sentence and text not in own]
        return [text for text in others if digest(text) not in self._excluded]

    def _all_or_many(self) -> list[str]:
        """Every sentence of a small table in random order, or many of a large one."""
        rows = len(self._sentences)
        size = min(rows, FEW * FEW)
        indices = self._random.permutation(rows) if rows <= size else self._random.integers(0, rows, size)
        return list(self._sentences.take(pa.array(indices)).to_pylist())
