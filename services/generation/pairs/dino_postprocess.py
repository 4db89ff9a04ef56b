"""The original's post-processing of a finished dataset, for whoever wants its files: see `dino_dataset`.

The trainer does not need this: it smooths and adds random pairs itself, to raw pairs, in each round (and without the
original's leaks).
"""

import random
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

SMOOTHING = 0.2
PAIRS_PER_SENTENCE_AND_LABEL = 2
RANDOM_PAIRS_PER_SENTENCE = 2


class RawPair(NamedTuple):
    """A pair with the score of its label."""

    sentence1: str
    sentence2: str
    score: float


def dino_dataset(pairs: Iterable[RawPair], seed: int = 42) -> list[RawPair]:
    """Shuffle, drop repetitions and identical sentences, smooth, thin out, add random pairs.

    Source: timoschick/dino, scripts/sts/postprocess_dataset.py. The scores become 0.8 y + 0.1; at most two pairs of a
    sentence 1 and label stay; each sentence 1 gets two random partners of score 0, not smoothed, drawn from all kept
    sentences, its own not excepted. Unlike the original's, the result depends on the seed alone: its shuffle was undone
    by a `set`.
    """
    shuffled = sorted(set(pairs))
    generator = random.Random(seed)
    generator.shuffle(shuffled)
    smoothed = [pair._replace(score=smooth(pair.score)) for pair in shuffled if pair.sentence1 != pair.sentence2]
    kept: list[RawPair] = []
    count: dict[tuple[str, float], int] = defaultdict(int)
    for pair in smoothed:
        count[pair.sentence1, pair.score] += 1
        if count[pair.sentence1, pair.score] <= PAIRS_PER_SENTENCE_AND_LABEL:
            kept.append(pair)
    partners = [pair.sentence2 for pair in kept]
    sentences = dict.fromkeys(pair.sentence1 for pair in kept)
    return kept + [
        RawPair(sentence, generator.choice(partners), 0.0)
        for sentence in sentences
        for _ in range(RANDOM_PAIRS_PER_SENTENCE)
    ]


def smooth(score: float) -> float:
    """Label smoothing by 0.2: 1, 0.5 and 0 become 0.9, 0.5 and 0.1."""
    return round((1 - SMOOTHING) * score + SMOOTHING / 2, 6)
