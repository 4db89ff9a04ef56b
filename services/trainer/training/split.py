"""From collected pairs to training rows: the split, and DINO's post-processing made reproducible and without its leaks.

Everything streams from disk to disk. It depends on which pairs there are and on the seed, not on their order.

The dev side is grouped by sentence1 (the original has the same sentence1 on both sides): whether a group is held out
depends on a hash of its sentence1 alone, so no later round trains on what an earlier one was measured on, and two
versions can be compared on it fairly. Of what is held out, a sample with the dataset's shares of labels is measured.
Random partners are never a sentence's own; the dev side has neither random pairs nor smoothed scores.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from services.trainer.dataset.arrow import TableWriter, portions, read_table, schema
from services.trainer.dataset.store import StoredPair
from services.trainer.evaluation.sts import Row
from services.trainer.training.partners import Partners
from services.trainer.training.recipe import Recipe

DEV_SHARE = 0.1
DEV_MOST = 5_000
POSITIVE = 0.75
"""A pair with at least this score is a positive for losses that take triplets."""

TRAIN, DEV, DONE = "train.arrow", "dev.arrow", "rows.json"
_KEPT, _HELD_OUT = "kept.arrow", "held_out.arrow"
SENTENCES = {"sentence1": pa.string(), "sentence2": pa.string()}
PAIRS = schema(**SENTENCES, score=pa.float64())
KEPT = schema(**SENTENCES, score=pa.float64(), suspect=pa.bool_())
TRIPLETS = schema(anchor=pa.string(), positive=pa.string(), negative=pa.string())


@dataclass(frozen=True)
class SplitStats:
    """How the pairs were divided."""

    train: int
    """Rows to train on, random pairs included."""
    random: int
    """Pairs of score 0 with random partners, or triplets with a random negative."""
    dev: int
    """Pairs that are measured."""
    held_out: int
    """Pairs whose sentence1 belongs to the dev side."""
    left_out: int
    """Pairs left out of training: over a limit per label, or with a sentence2 that is a sentence1 of the dev side."""
    labels: dict[str, int]
    """Pairs by score."""
    dev_labels: dict[str, int]


@dataclass(frozen=True)
class Split:
    """What a round trains on and is measured on, in Arrow files in `folder`."""

    folder: Path
    facts: SplitStats
    dev: list[Row]
    """sentence1, sentence2, score; grouped by sentence1."""

    @property
    def dev_fault(self) -> str | None:
        """Why the dev side can't rank versions; None when it can."""
        scores = {score for _, _, score in self.dev}
        if not self.dev:
            return "no pair fell on the dev side; more different sentence1 are needed"
        if len(scores) == 1:
            return f"all {len(self.dev)} pairs on the dev side have the score {scores.pop():g}; another score is needed"
        return None


@dataclass(frozen=True)
class Replay:
    """A warm start's choice: the pairs after the first `seen`, and this share of those before."""

    seen: int
    share: float

    def takes(self, pair: StoredPair) -> bool:
        """Whether the pair is trained on. By its hash, so the order of collection doesn't matter."""
        return pair.id > self.seen or _fraction(pair.hash) < self.share


class NoNewPairs(Exception):
    """A warm start has nothing to train on: all that is new is on the dev side."""


def prepare(pairs: Iterable[StoredPair], recipe: Recipe, folder: Path, replay: Replay | None = None) -> Split:
    """Split, smooth and add random pairs. `pairs` are ordered by sentence1, then sentence2. Raises `NothingNew`."""
    folder.mkdir(parents=True, exist_ok=True)
    split = _Split(recipe, folder, replay)
    split.run(pairs)
    if split.nothing_kept and replay is not None:
        raise NoNewPairs
    dev = [] if split.nothing_kept else _stratified(folder / _HELD_OUT, split.labels, recipe.seed)
    if split.nothing_kept:  # a handful of pairs: training on them matters more than measuring
        (folder / _HELD_OUT).rename(folder / _KEPT)
    dev_sentences = {_digest(one) for one, _, _ in _read_pairs(folder / _HELD_OUT)} if not split.nothing_kept else set()
    train, random, leaks = (_write_triplets if recipe.triplets else _write_pairs)(folder, recipe, dev_sentences)
    with TableWriter(folder / DEV, PAIRS) as writer:
        for row in dev:
            writer.write(row)
    facts = SplitStats(
        train=train,
        random=random,
        dev=len(dev),
        held_out=0 if split.nothing_kept else split.held_out,
        left_out=split.left_out + leaks,
        labels=_named(split.labels),
        dev_labels=_named(Counter(score for _, _, score in dev)),
    )
    for name in (_KEPT, _HELD_OUT):
        (folder / name).unlink(missing_ok=True)
    (folder / DONE).write_text(json.dumps(asdict(facts)))  # last: its existence says that the others are whole
    return Split(folder, facts, dev)


def prepared(folder: Path) -> Split | None:
    """What an earlier `prepare` left in `folder`; None when it didn't come to its end."""
    try:
        facts = SplitStats(**json.loads((folder / DONE).read_text()))
    except (OSError, ValueError):
        return None
    return Split(folder, facts, list(_read_pairs(folder / DEV)))


def in_dev(sentence1: str, seed: int) -> bool:
    """Whether a sentence1 belongs to the dev side: the same answer in every round, however the data grow."""
    return _fraction(hashlib.sha256(f"{seed}\x1f{sentence1}".encode()).digest()) < DEV_SHARE


class _Split:
    """One pass over all pairs: each goes to a file of its side."""

    def __init__(self, recipe: Recipe, folder: Path, replay: Replay | None) -> None:
        self._recipe, self._folder, self._replay = recipe, folder, replay
        self.labels: Counter[float] = Counter()
        self.held_out = self.left_out = 0
        self.nothing_kept = True

    def run(self, pairs: Iterable[StoredPair]) -> None:
        seed = self._recipe.seed
        with TableWriter(self._folder / _KEPT, KEPT) as kept, TableWriter(self._folder / _HELD_OUT, KEPT) as held_out:
            for sentence1, group in groupby(pairs, attrgetter("sentence1")):
                if in_dev(sentence1, seed):
                    for pair in group:
                        self.labels[pair.score] += 1
                        held_out.write((sentence1, pair.sentence2, pair.score, False))
                    continue
                for pair in self._limited(group):
                    kept.write((sentence1, pair.sentence2, pair.score, in_dev(pair.sentence2, seed)))
            self.held_out, self.nothing_kept = held_out.rows, kept.rows == 0

    def _limited(self, group: Iterable[StoredPair]) -> Iterator[StoredPair]:
        """The pairs of a group that are trained on: those of the replay, and so many a label by their hash."""
        pairs = list(group)
        self.labels.update(pair.score for pair in pairs)
        chosen = [pair for pair in pairs if self._replay is None or self._replay.takes(pair)]
        if (most := self._recipe.most_per_label) is not None:
            first, taken = set(), Counter[float]()
            for pair in sorted(chosen, key=attrgetter("hash")):
                taken[pair.score] += 1
                if taken[pair.score] <= most:
                    first.add(pair.hash)
            self.left_out += len(chosen) - len(first)
            chosen = [pair for pair in chosen if pair.hash in first]
        return iter(chosen)


def _stratified(file: Path, labels: Counter[float], seed: int) -> list[Row]:
    """A sample of what is held out in which each score has the share that it has among all pairs, as far as it goes.

    At most half is given up for that: a score that few held-out pairs have must not shrink the rest to nothing.
    """
    table = read_table(file)
    scores = table.column("score").to_numpy()
    if not len(scores):
        return []
    held = Counter(scores.tolist())
    everything = sum(labels.values())
    size = min(held[score] / (labels[score] / everything) for score in held)
    size = min(max(size, len(scores) / 2), DEV_MOST)
    order = np.random.default_rng(seed).permutation(len(scores))
    taken: list[int] = []
    for score in sorted(held):
        of_score = order[scores[order] == score]
        taken += of_score[: max(1, round(size * labels[score] / everything))].tolist()
    rows = table.take(pa.array(sorted(taken), pa.int64())).to_pylist()
    return [(row["sentence1"], row["sentence2"], row["score"]) for row in rows]


def _write_pairs(folder: Path, recipe: Recipe, dev_sentences: set[bytes]) -> tuple[int, int, int]:
    """Scored pairs, smoothed, and random ones; how many rows, random rows and leaks there were."""
    leaks = 0
    with TableWriter(folder / TRAIN, PAIRS) as writer:
        for one, other, score, suspect in _read(folder / _KEPT):
            if suspect and _digest(other) in dev_sentences:
                leaks += 1
                continue
            writer.write((one, other, (1 - recipe.smoothing) * score + recipe.smoothing / 2))
        generated = writer.rows
        if recipe.random_pairs:
            partners = Partners(read_table(folder / _KEPT), recipe.seed, dev_sentences)
            groups = ((one, {other for other, _ in group}) for one, group in _scored_groups(folder / _KEPT))
            names = (one for one, _ in _scored_groups(folder / _KEPT))
            for one, others in zip(names, partners.draw(groups, recipe.random_pairs), strict=True):
                for other in others:
                    writer.write((one, other, 0.0))
        return writer.rows, writer.rows - generated, leaks


def _write_triplets(folder: Path, recipe: Recipe, dev_sentences: set[bytes]) -> tuple[int, int, int]:
    """Each positive with each lower-scored sentence2 of its sentence1 as hard negative; a random one where none is."""
    leaks, file = 0, folder / _KEPT
    with TableWriter(folder / TRAIN, TRIPLETS) as writer:
        for one, group in _scored_groups(file):
            kept = [(other, score) for other, score in group if _digest(other) not in dev_sentences]
            leaks += len(group) - len(kept)
            for positive, score in kept:
                for negative in (other for other, its in kept if score >= POSITIVE and its < score):
                    writer.write((one, positive, negative))
        hard = writer.rows
        partners = Partners(read_table(file), recipe.seed, dev_sentences)
        lonely = partners.draw(((one, own) for one, _, own in _lonely(file, dev_sentences)), 1)
        for (one, positive, _), others in zip(_lonely(file, dev_sentences), lonely, strict=True):
            for negative in others:
                writer.write((one, positive, negative))
        return writer.rows, writer.rows - hard, leaks


def _lonely(file: Path, dev_sentences: set[bytes]) -> Iterator[tuple[str, str, set[str]]]:
    """Positives without a lower-scored sentence2 beside them, and all partners of their sentence1."""
    for one, group in _scored_groups(file):
        kept = [(other, score) for other, score in group if _digest(other) not in dev_sentences]
        for positive, score in kept:
            if score >= POSITIVE and not any(its < score for _, its in kept):
                yield one, positive, {other for other, _ in group}


def _scored_groups(file: Path) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Each sentence1 with its partners and their scores."""
    for one, rows in groupby(_read(file), lambda row: row[0]):
        yield one, [(row[1], row[2]) for row in rows]


def _read(file: Path) -> Iterator[tuple[Any, ...]]:
    return (row for portion in portions(file) for row in portion)


def _read_pairs(file: Path) -> Iterator[Row]:
    return ((row[0], row[1], row[2]) for row in _read(file))


def _named(labels: Counter[float]) -> dict[str, int]:
    """Counts by score as JSON takes them; scores of many values in tenths."""
    if len(labels) > 20:
        labels = sum((Counter({math.floor(score * 10) / 10: count}) for score, count in labels.items()), Counter())
    return {f"{score:g}": labels[score] for score in sorted(labels)}


def _digest(text: str) -> bytes:
    """Eight bytes that stand for a sentence: a set of millions of them fits into memory."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _fraction(digest: bytes) -> float:
    return int.from_bytes(digest[:8]) / 2**64
