"""The original's post-processing of a finished dataset, for whoever wants its files.

The trainer smooths and adds random pairs itself, in each round, without the original's leaks.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

SMOOTHING = 0.2
PAIRS_PER_SENTENCE_AND_LABEL = 2
RANDOM_PAIRS_PER_SENTENCE = 2


class _ScoredPair(NamedTuple):
    sentence1: str
    sentence2: str
    score: float


def dino_dataset(pairs: Iterable[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Shuffle, drop repetitions and identical sentences, smooth, thin out, add random pairs.

    Source: timoschick/dino, scripts/sts/postprocess_dataset.py. The scores become 0.8 y + 0.1; at most two pairs of a
    sentence 1 and label stay; each sentence 1 gets two random partners of score 0, not smoothed, drawn from all kept
    sentences, its own not excepted. Unlike the original's, the result depends on the seed alone: its shuffle was undone
    by a `set`.
    """
    shuffled = sorted({_ScoredPair(pair["sentence1"], pair["sentence2"], pair["score"]) for pair in pairs})
    generator = random.Random(seed)
    generator.shuffle(shuffled)
    kept: list[_ScoredPair] = []
    count: Counter[tuple[str, float]] = Counter()
    for sentence1, sentence2, score in shuffled:
        smoothed = _ScoredPair(sentence1, sentence2, smooth(score))
        if sentence1 != sentence2 and count[sentence1, smoothed.score] < PAIRS_PER_SENTENCE_AND_LABEL:
            count[sentence1, smoothed.score] += 1
            kept.append(smoothed)
    partners = [pair.sentence2 for pair in kept]
    for sentence1 in dict.fromkeys(pair.sentence1 for pair in kept):
        kept += [_ScoredPair(sentence1, generator.choice(partners), 0.0) for _ in range(RANDOM_PAIRS_PER_SENTENCE)]
    return [pair._asdict() for pair in kept]


def smooth(score: float) -> float:
    """Label smoothing by 0.2: 1, 0.5 and 0 become 0.9, 0.5 and 0.1."""
    return round((1 - SMOOTHING) * score + SMOOTHING / 2, 6)
