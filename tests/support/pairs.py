"""Pairs with something to learn: `noun7` and `alsonoun7` mean the same, which only training can tell a student."""

import json
import random
from pathlib import Path

from services.trainer.dataset.store import Dataset, Round
from services.trainer.evaluation.sts import Row
from shared.pairs import Pair, PairRecord, Provenance

NOUNS = [f"noun{number}" for number in range(60)]
SYNONYMS = {noun: f"also{noun}" for noun in NOUNS}
WORDS = [*NOUNS, *SYNONYMS.values(), "a", "sees", "the", "near"]
HOTEL_PAIRS = Path(__file__).parents[1] / "data" / "hotel_pairs.jsonl"
"""What the default teacher wrote for the demo's sentences."""


def make_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Different pairs, three to a sentence1: its paraphrase (1), half of it (0.5), another sentence (0)."""
    generator = random.Random(seed)
    pairs: dict[str, Pair] = {}
    while len(pairs) < count:
        first, second, third, fourth = generator.sample(NOUNS, 4)
        sentence = f"a {first} sees the {second}"
        for other, score in (
            (f"the {SYNONYMS[first]} near a {SYNONYMS[second]}", 1.0),
            (f"the {SYNONYMS[first]} near a {SYNONYMS[third]}", 0.5),
            (f"the {SYNONYMS[third]} near a {SYNONYMS[fourth]}", 0.0),
        ):
            pair = Pair(sentence1=sentence, sentence2=other, score=score)
            pairs[pair.content_hash] = pair
    return list(pairs.values())[:count]


def records(pairs: list[Pair]) -> list[PairRecord]:
    """The pairs as the stream carries them."""
    provenance = Provenance(dataset="default", task="sts", label="1", job="job", teacher="default", seed=1)
    return [PairRecord(pair=pair, provenance=provenance) for pair in pairs]


def plan(dataset: Dataset, seed: int, base: object, start: str | None = None) -> Round:
    """The next round on all pairs, as the worker plans it."""
    round_ = dataset.plan(seed, str(base), start)
    return dataset.set_hash(round_.id, dataset.hash(round_))


def hotel_rows() -> list[Row]:
    """Real pairs: sentences and scores."""
    lines = map(json.loads, HOTEL_PAIRS.read_text(encoding="utf-8").splitlines())
    return [(line["sentence1"], line["sentence2"], line["score"]) for line in lines]
