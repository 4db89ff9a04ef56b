"""From collected pairs to training rows: the split, and DINO's post-processing made reproducible and without its leaks.

Everything streams from disk to disk. It depends on which pairs there are and on the seed, not on their order.
Whether a sentence1 is held out depends on its hash alone (the original has the same sentence1 on both sides): no later
round trains on what an earlier one was measured on. The dev side has neither random pairs nor smoothed scores.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, islice, tee
from operator import attrgetter, itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa

from services.trainer.dataset.arrow import TableWriter, portions, read_table
from services.trainer.dataset.store import StoredPair
from services.trainer.evaluation.sts import Row
from services.trainer.training.recipe import Recipe

DEV_SHARE, DEV_MOST = 0.1, 5_000
POSITIVE = 0.75  # a pair with at least this score is a positive for losses that take triplets
MOST_LABELS = 20
GROUPS, SPARE, MANY = 2_000, 8, 4_096
"""Of random partners: sentences for which they are drawn at once, spare ones for each, and those of a second try."""

TRAIN, DEV, STATS = "train.arrow", "dev.arrow", "rows.json"
_KEPT, _HELD_OUT = "kept.arrow", "held_out.arrow"
SENTENCES = {"sentence1": pa.string(), "sentence2": pa.string()}
PAIRS = pa.schema(SENTENCES | {"score": pa.float64()})
TRIPLETS = pa.schema(dict.fromkeys(("anchor", "positive", "negative"), pa.string()))


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
    stats: SplitStats
    dev: list[Row]
    """sentence1, sentence2, score; grouped by sentence1."""

    @property
    def dev_problem(self) -> str | None:
        """Why the dev side can't rank versions; None when it can."""
        scores = {score for _, _, score in self.dev}
        if not self.dev:
            return "no pair fell on the dev side; more different sentence1 are needed"
        if len(scores) == 1:
            return f"all {len(self.dev)} pairs on the dev side have the score {scores.pop():g}; another score is needed"
        return None

    @property
    def eval_pairs(self) -> list[Row]:
        """The dev side where it can rank versions, otherwise []."""
        return [] if self.dev_problem else self.dev


@dataclass(frozen=True)
class Replay:
    """A warm start's choice: the pairs with ids after `last_old`, and this share of those before, by their hash."""

    last_old: int
    share: float


class NoNewPairs(Exception):
    """A warm start has nothing to train on: all that is new is on the dev side."""


def prepare(pairs: Iterable[StoredPair], recipe: Recipe, folder: Path, replay: Replay | None = None) -> Split:
    """Split, smooth and add random pairs. `pairs` are ordered by sentence1, then sentence2. Raises `NoNewPairs`."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, held_out, left_out, labels = _divide(pairs, recipe, folder, replay)
    dev, dev_sentences = list[Row](), set[bytes]()
    if kept:
        dev = _stratified(folder / _HELD_OUT, labels, recipe.seed)
        dev_sentences = {digest(one) for one, _, _ in _rows(folder / _HELD_OUT)}
    elif replay is not None:
        raise NoNewPairs
    else:  # a handful of pairs: training on them matters more than measuring
        held_out = 0
        (folder / _HELD_OUT).rename(folder / _KEPT)
    train, random, leaks = (_write_triplets if recipe.triplets else _write_pairs)(folder, recipe, dev_sentences)
    with TableWriter(folder / DEV, PAIRS) as writer:
        for row in dev:
            writer.write(row)
    dev_labels = _by_name(Counter(score for _, _, score in dev))
    stats = SplitStats(train, random, len(dev), held_out, left_out + leaks, _by_name(labels), dev_labels)
    for name in (_KEPT, _HELD_OUT):
        (folder / name).unlink(missing_ok=True)
    (folder / STATS).write_text(json.dumps(asdict(stats)))  # last: its existence says that the others are complete
    return Split(folder, stats, dev)


def prepared(folder: Path) -> Split | None:
    """What an earlier `prepare` left in `folder`; None when it didn't come to its end."""
    try:
        stats = SplitStats(**json.loads((folder / STATS).read_text()))
    except (OSError, ValueError):
        return None
    return Split(folder, stats, list(_rows(folder / DEV)))


def in_dev(name: str, seed: int, share: float = DEV_SHARE) -> bool:
    """Whether a sentence1 or a document belongs to the dev side: the same answer in every round of this share."""
    return _fraction(hashlib.sha256(f"{seed}\x1f{name}".encode()).digest()) < share


def _divide(
    pairs: Iterable[StoredPair], recipe: Recipe, folder: Path, replay: Replay | None
) -> tuple[int, int, int, Counter[float]]:
    """Write each pair to the file of its side; how many were kept, held out and left out, and all pairs by score."""
    labels, left_out = Counter[float](), 0
    with TableWriter(folder / _KEPT, PAIRS) as kept, TableWriter(folder / _HELD_OUT, PAIRS) as held_out:
        for sentence1, rows in groupby(pairs, attrgetter("sentence1")):
            group = list(rows)
            labels.update(pair.score for pair in group)
            side = held_out if in_dev(sentence1, recipe.seed) else kept
            if side is kept:
                last_old, share = (replay.last_old, replay.share) if replay else (0, 1.0)
                candidates = [pair for pair in group if pair.id > last_old or _fraction(pair.hash) < share]
                group = _limit(candidates, recipe.most_per_label)
                left_out += len(candidates) - len(group)
            for pair in group:
                side.write((sentence1, pair.sentence2, pair.score))
        return kept.rows, held_out.rows, left_out, labels


def _limit(group: list[StoredPair], most: int | None) -> list[StoredPair]:
    """At most so many pairs of each score, chosen by their hash, in their order."""
    if most is None:
        return group
    counts, chosen = Counter[float](), set()
    for pair in sorted(group, key=attrgetter("hash")):
        counts[pair.score] += 1
        if counts[pair.score] <= most:
            chosen.add(pair.hash)
    return [pair for pair in group if pair.hash in chosen]


def _stratified(file: Path, labels: Counter[float], seed: int) -> list[Row]:
    """A sample of what is held out with all pairs' shares of scores; at most half is given up for a rare score."""
    table = read_table(file)
    scores = table.column("score").to_numpy()
    held_out, total = Counter(scores.tolist()), sum(labels.values())
    size = min((held_out[score] / (labels[score] / total) for score in held_out), default=0.0)
    size = min(max(size, len(scores) / 2), DEV_MOST)
    order = np.random.default_rng(seed).permutation(len(scores))
    numbers: list[int] = []
    for score in sorted(held_out):
        of_score = order[scores[order] == score]
        numbers += of_score[: max(1, round(size * labels[score] / total))].tolist()
    rows = table.take(pa.array(sorted(numbers), pa.int64())).to_pylist()
    return [(row["sentence1"], row["sentence2"], row["score"]) for row in rows]


def _write_pairs(folder: Path, recipe: Recipe, dev_sentences: set[bytes]) -> tuple[int, int, int]:
    """Scored pairs, smoothed, and random ones; how many rows, random rows and leaks there were."""
    leaks, file = 0, folder / _KEPT
    with TableWriter(folder / TRAIN, PAIRS) as writer:
        for one, other, score in _rows(file):
            if digest(other) in dev_sentences:
                leaks += 1
            else:
                writer.write((one, other, (1 - recipe.smoothing) * score + recipe.smoothing / 2))
        generated = writer.rows
        if recipe.random_pairs:
            groups, own = tee(_scored_groups(file))
            own_sets = ((one, {other for other, _ in group}) for one, group in own)
            drawn = _draw_partners(file, recipe.seed, dev_sentences, own_sets, recipe.random_pairs)
            for (one, _), others in zip(groups, drawn, strict=True):
                for other in others:
                    writer.write((one, other, 0.0))
        return writer.rows, writer.rows - generated, leaks


def _write_triplets(folder: Path, recipe: Recipe, dev_sentences: set[bytes]) -> tuple[int, int, int]:
    """Each positive with each lower-scored sentence2 of its sentence1 as hard negative; a random one where none is."""
    leaks, file = 0, folder / _KEPT
    with TableWriter(folder / TRAIN, TRIPLETS) as writer:
        for one, group in _scored_groups(file):
            leaks += sum(digest(other) in dev_sentences for other, _ in group)
            for positive, negatives in _positives(group, dev_sentences):
                for negative in negatives:
                    writer.write((one, positive, negative))
        hard = writer.rows
        without_negative, own = tee(
            (one, positive, {other for other, _ in group})
            for one, group in _scored_groups(file)
            for positive, negatives in _positives(group, dev_sentences)
            if not negatives
        )
        own_sets = ((one, others) for one, _, others in own)
        drawn = _draw_partners(file, recipe.seed, dev_sentences, own_sets, 1)
        for (one, positive, _), random in zip(without_negative, drawn, strict=True):
            for negative in random:
                writer.write((one, positive, negative))
        return writer.rows, writer.rows - hard, leaks


def _draw_partners(
    file: Path, seed: int, excluded: set[bytes], groups: Iterable[tuple[str, set[str]]], count: int
) -> Iterator[list[str]]:
    """For each sentence, `count` different sentence2 outside its own set, none excluded; fewer where there are no more.

    They have nothing to do with it, which no instruction asks a teacher for.
    """
    sentences, random, remaining = read_table(file).column("sentence2"), np.random.default_rng(seed), iter(groups)
    rows, width = len(sentences), min(len(sentences), count + SPARE)

    def allowed(texts: list[str], sentence: str, own: set[str]) -> list[str]:
        others = (text for text in dict.fromkeys(texts) if text != sentence and text not in own)
        return [text for text in others if digest(text) not in excluded][:count]

    while portion := list(islice(remaining, GROUPS)):
        texts = sentences.take(pa.array(random.integers(0, rows, (len(portion), width)).ravel())).to_pylist()
        for number, group in enumerate(portion):
            partners = allowed(texts[number * width : (number + 1) * width], *group)
            if len(partners) < count:  # all of a small table in random order, or many of a large one
                indices = random.permutation(rows) if rows <= MANY else random.integers(0, rows, MANY)
                partners = allowed(sentences.take(pa.array(indices)).to_pylist(), *group)
            yield partners


def digest(text: str) -> bytes:
    """Eight bytes that stand for a sentence: a set of millions of them fits into memory."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _positives(group: list[tuple[str, float]], dev_sentences: set[bytes]) -> Iterator[tuple[str, list[str]]]:
    """Each positive of a sentence1, and the lower-scored sentence2 beside it, without leaks."""
    kept = [(other, score) for other, score in group if digest(other) not in dev_sentences]
    for positive, score in kept:
        if score >= POSITIVE:
            yield positive, [other for other, lower in kept if lower < score]


def _scored_groups(file: Path) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Each sentence1 with its partners and their scores."""
    for one, rows in groupby(_rows(file), itemgetter(0)):
        yield one, [(row[1], row[2]) for row in rows]


def _rows(file: Path) -> Iterator[Row]:
    return ((one, other, score) for portion in portions(file) for one, other, score in portion)


def _by_name(labels: Counter[float]) -> dict[str, int]:
    """Counts by score as JSON takes them; scores of many values in tenths."""
    if len(labels) > MOST_LABELS:
        labels = sum((Counter({math.floor(score * 10) / 10: count}) for score, count in labels.items()), Counter())
    return {f"{score:g}": labels[score] for score in sorted(labels)}


def _fraction(hash_: bytes) -> float:
    return int.from_bytes(hash_[:8]) / 2**64
