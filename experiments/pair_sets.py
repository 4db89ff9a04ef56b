"""Pair sets on disk: reading, choosing and keeping the measuring side apart."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from services.trainer.dataset.store import StoredPair
from services.trainer.evaluation.sts import Row
from shared.errors import Fatal
from shared.pairs import Pair


def words(text: str) -> set[str]:
    """Its words, lower case."""
    return set(re.findall(r"\w+", text.lower()))


def overlap(one: str, other: str) -> float:
    """Jaccard overlap of two sentences' words."""
    left, right = words(one), words(other)
    return len(left & right) / max(1, len(left | right))


FILTERS: Mapping[str, Callable[[Row], bool]] = {
    "no-overlap-at-1": lambda row: row[2] < 0.75 or overlap(row[0], row[1]) > 0,
    "overlap-at-0": lambda row: row[2] > 0.25 or overlap(row[0], row[1]) < 0.2,
    "length": lambda row: max(len(row[0]), len(row[1])) < 3 * min(len(row[0]), len(row[1])),
    "without-half": lambda row: row[2] != 0.5,
    "without-zero": lambda row: row[2] != 0.0,
}
"""By name; False throws a pair away."""


def read(folder: Path, name: str) -> list[Row]:
    """A set's pairs, each once. Raises `Fatal`."""
    try:
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        return list(dict.fromkeys((row["sentence1"], row["sentence2"], float(row["score"])) for row in rows))
    except (OSError, ValueError, KeyError) as error:
        raise Fatal(f"pair set {name!r}: {error!r}; write it with `python -m experiments generate`") from None


def write(file: Path, rows: Iterable[Row]) -> None:
    """A set as `read` takes it."""
    with file.open("w", encoding="utf-8") as lines:
        for one, other, score in rows:
            row = {"sentence1": one, "sentence2": other, "score": score}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def digest(rows: Iterable[Row]) -> str:
    """Names a set's content."""
    found = hashlib.sha256()
    for row in rows:
        found.update(repr(row).encode())
    return found.hexdigest()[:16]


def chosen(rows: Sequence[Row], most: int | None, filters: Iterable[str]) -> list[Row]:
    """The rows that the filters leave; at most so many, whole groups of a sentence1 in the order of its hash."""
    rules = [FILTERS[name] for name in filters]
    kept = [row for row in rows if all(rule(row) for rule in rules)]
    if most is None:
        return kept
    groups = groupby(sorted(kept, key=lambda row: _hash(row[0])), key=lambda row: row[0])
    taken: list[Row] = []
    for _, group in groups:
        if len(taken) >= most:
            break
        taken += group
    return taken


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """The same texts with each sentence1's scores dealt out anew: what a student learns of them is not meaning."""
    generator = random.Random(seed)
    dealt: list[Row] = []
    for _, group in groupby(sorted(rows), key=lambda row: row[0]):
        own = list(group)
        scores = [score for _, _, score in own]
        generator.shuffle(scores)
        dealt += [(one, other, score) for (one, other, _), score in zip(own, scores, strict=True)]
    return dealt


def apart(judge: Sequence[Row], train: Sequence[Row]) -> list[Row]:
    """The judging rows without a sentence that is trained on."""
    seen = {text for one, other, _ in train for text in (one, other)}
    return [row for row in judge if row[0] not in seen and row[1] not in seen]


def stored(rows: Sequence[Row]) -> list[StoredPair]:
    """As the trainer's dataset hands them out: by sentence1, unique by content hash."""
    found: dict[bytes, Row] = {}
    for row in rows:
        found.setdefault(bytes.fromhex(Pair(sentence1=row[0], sentence2=row[1], score=row[2]).content_hash), row)
    ordered = sorted(found.items(), key=lambda item: item[1][:2])
    return [StoredPair(number, hash_, *row) for number, (hash_, row) in enumerate(ordered, 1)]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
