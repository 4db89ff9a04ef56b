"""Made-up pairs for `make bench-trainer`: sentences of real words, three scores a sentence, as many as wanted."""

import random
import re
from collections.abc import Iterator

from scripts.demo import SENTENCES

Row = dict[str, str | float]


def make_pairs(count: int, seed: int = 0) -> Iterator[Row]:
    """`count` different pairs in groups of three: nearly the same words (1), half of them (0.5), others (0)."""
    words = sorted(set(re.findall(r"[a-z]+", SENTENCES.read_text(encoding="utf-8").lower())))
    generator = random.Random(seed)
    for number in range(0, count, 3):
        first, other = (generator.choices(words, k=generator.randint(6, 12)) for _ in range(2))
        first.append(f"number {number}")  # no two groups are the same
        half = len(first) // 2
        near, middle = first[1:], first[:half] + other[half:]
        generator.shuffle(near)
        for score, partner in ((1.0, near), (0.5, middle), (0.0, other))[: count - number]:
            yield {"sentence1": " ".join(first), "sentence2": " ".join(partner), "score": score}
