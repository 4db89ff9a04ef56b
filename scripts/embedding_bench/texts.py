"""Texts to embed, never the same twice: no server's cache may help it."""

import random
from collections.abc import Iterator
from itertools import count
from typing import Literal

from scripts.demo import SENTENCES

Lengths = Literal["short", "mixed"]

_runs = count(1)


def texts(lengths: Lengths, number: int) -> list[str]:
    """`number` texts of random words. Short: 6 to 14 words. Mixed: log-normal, 20 on average, 3 to 160."""
    return list(_texts(lengths, number, random.Random(next(_runs))))


def _texts(lengths: Lengths, number: int, chance: random.Random) -> Iterator[str]:
    words = SENTENCES.read_text(encoding="utf-8").split()
    for _ in range(number):
        size = chance.randint(6, 14) if lengths == "short" else round(min(160, max(3, chance.lognormvariate(2.7, 0.8))))
        yield " ".join(chance.choices(words, k=size))
