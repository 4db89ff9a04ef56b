"""Random partners: sentences that have nothing to do with a given one, which no instruction asks a teacher for."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa

from services.trainer.dataset.arrow import chosen

GROUPS, TRIES, FEW = 2_000, 8, 64


class Partners:
    """Draws from the sentence2 of a table of training pairs."""

    def __init__(self, table: pa.Table, seed: int, taboo: set[bytes]) -> None:
        self._table, self._taboo = table, taboo
        self._random = np.random.default_rng(seed)

    def draw(self, groups: Iterable[tuple[str, set[str]]], count: int) -> Iterator[list[str]]:
        """For each sentence, `count` different others outside its own set; fewer where there are no more."""
        remaining = iter(groups)
        while portion := list(islice(remaining, GROUPS)):
            width = min(self._table.num_rows, count + TRIES)
            drawn = self._random.integers(0, self._table.num_rows, (len(portion), width))
            texts = chosen(self._table, "sentence2", drawn.ravel().tolist())
            for number, (sentence, own) in enumerate(portion):
                fitting = self._fitting(sentence, own, texts[number * width : (number + 1) * width])[:count]
                if len(fitting) < count:
                    fitting = self._fitting(sentence, own, self._all_or_many())[:count]
                yield fitting

    def _fitting(self, sentence: str, own: set[str], candidates: list[str]) -> list[str]:
        return [
            other
            for other in dict.fromkeys(candidates)
            if other != sentence and other not in own and not self._is_taboo(other)
        ]

    def _is_taboo(self, text: str) -> bool:
        return hashlib.blake2b(text.encode(), digest_size=8).digest() in self._taboo

    def _all_or_many(self) -> list[str]:
        """Every sentence of a small table in random order, or many of a large one."""
        rows = self._table.num_rows
        size = min(rows, FEW * FEW)
        indices = self._random.permutation(rows) if rows <= size else self._random.integers(0, rows, size)
        return chosen(self._table, "sentence2", indices.tolist())
