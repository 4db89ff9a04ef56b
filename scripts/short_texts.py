"""Short texts, such as requests, titles or messages: a corpus that one compares and does not search."""

import hashlib
import heapq
import json
import statistics
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from shared import tables
from shared.tables import BadRow

FEWEST, LOOKED_AT, MOST_EMPTY, LONGEST = 40, 1_000, 0.02, 120
"""Lines of a list; those that are looked at; the share of them that may be empty; a median line's characters."""
FULL, MOST_FULL = 0.85, 0.5
"""Prose that is broken at a width has most lines nearly that long: this share of the longest ones."""
SHORTEST = 20
"""Characters of a text that pairs are written for, if there are longer ones."""


def has_one_a_line(path: Path) -> bool:
    """Whether a text file is a list of short texts rather than one document."""
    if not path.is_file() or path.suffix.lower() != ".txt":
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [len(line.strip()) for line in islice(file, LOOKED_AT)]
    full = [length for length in lines if length]
    if len(full) < FEWEST or len(full) < (1 - MOST_EMPTY) * len(lines) or statistics.median(full) > LONGEST:
        return False
    width = statistics.quantiles(full, n=20)[-1]
    return sum(length >= FULL * width for length in full) < MOST_FULL * len(full)


def write_as_rows(file: Path, folder: Path) -> Path:
    """A file of the same name whose rows are the lines' texts: `documents add` takes each as a document."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / f"{file.stem}.jsonl"
    with rows.open("w", encoding="utf-8") as target:
        for _, row in tables.read(file):
            if not isinstance(row, BadRow):
                target.write(json.dumps({"text": row[tables.TEXT]}, ensure_ascii=False) + "\n")
    return rows


def draw(texts: Iterable[str], most: int) -> list[str]:
    """At most so many, by a hash: more texts change few of them."""
    by_hash = {hashlib.sha256(text.encode()).hexdigest(): text for text in texts}
    long_enough = {key: text for key, text in by_hash.items() if len(text) >= SHORTEST} or by_hash
    return [long_enough[key] for key in heapq.nsmallest(most, long_enough)]
