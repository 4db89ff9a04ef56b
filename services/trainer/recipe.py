"""From collected pairs to training rows: DINO's post-processing, made reproducible and without its leaks.

Source: timoschick/dino, scripts/sts/postprocess_dataset.py and run_training.py. Ours differs in three ways: the dev
side is split by sentence1, not by pair (theirs has the same sentence1 on both sides); random partners are never a
sentence's own; the dev side has neither random pairs nor smoothed scores.
"""

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from shared.pairs import Pair

SMOOTHING = 0.2
RANDOM_PAIRS = 2
DEV_SHARE = 0.1


@dataclass(frozen=True)
class Rows:
    """What a round trains on and what it is measured on. They share no sentence1."""

    train: list[Pair]
    dev: list[Pair]
    dev_fault: str | None
    """Why the dev side can't rank versions; None when it can."""


def prepare(pairs: Sequence[Pair], seed: int) -> Rows:
    """Split, smooth and add random pairs. Depends on which pairs there are and on the seed, not on their order."""
    ordered = sorted(pairs, key=lambda pair: (pair.sentence1, pair.sentence2, pair.score))
    train = [pair for pair in ordered if not in_dev(pair.sentence1, seed)]
    dev = [pair for pair in ordered if in_dev(pair.sentence1, seed)]
    if not train:  # a handful of pairs: training on them matters more than measuring
        train, dev = dev, []
    rows = [*map(smooth, train), *random_pairs(train, seed)]
    random.Random(seed).shuffle(rows)
    return Rows(rows, dev, _fault(dev))


def in_dev(sentence1: str, seed: int) -> bool:
    """Whether a sentence1 belongs to the dev side: the same answer in every round, however the data grow."""
    digest = hashlib.sha256(f"{seed}\x1f{sentence1}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < DEV_SHARE


def smooth(pair: Pair) -> Pair:
    """The labels 0, 0.5 and 1 become 0.1, 0.5 and 0.9."""
    return pair.model_copy(update={"score": (1 - SMOOTHING) * pair.score + SMOOTHING / 2})


def random_pairs(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Up to two pairs of score 0 for each sentence1, with partners of other sentences.

    They teach what no instruction asks for: that most sentences have nothing in common.
    """
    partners: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        partners[pair.sentence1].add(pair.sentence2)
    pool = sorted({pair.sentence2 for pair in pairs})
    generator = random.Random(seed)
    made = []
    for sentence in sorted(partners):
        taboo = partners[sentence] | {sentence}
        made += [Pair(sentence1=sentence, sentence2=other, score=0.0) for other in _draw(pool, taboo, generator)]
    return made


def _draw(pool: Sequence[str], taboo: set[str], generator: random.Random) -> list[str]:
    """`RANDOM_PAIRS` different sentences outside `taboo`, fewer when there are no more."""
    if len(pool) <= 2 * len(taboo) + RANDOM_PAIRS:
        rest = [sentence for sentence in pool if sentence not in taboo]
        return generator.sample(rest, min(RANDOM_PAIRS, len(rest)))
    # Trial and error: listing the rest for every sentence would take quadratic time.
    drawn: list[str] = []
    while len(drawn) < RANDOM_PAIRS:
        candidate = generator.choice(pool)
        if candidate not in taboo and candidate not in drawn:
            drawn.append(candidate)
    return drawn


def _fault(dev: Sequence[Pair]) -> str | None:
    scores = {pair.score for pair in dev}
    if not dev:
        return "no pair fell on the dev side; more different sentence1 are needed"
    if len(scores) == 1:
        return f"all {len(dev)} pairs on the dev side have the score {scores.pop():g}; another score is needed"
    return None
