"""The rows of pairs: put in, given another score, taken out, with the totals kept right. All within a transaction."""

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shared.pairs import PairRecord

UNFINISHED = "state IN ('planned', 'training')"
PORTION = 10_000
CONTENT = "hash, sentence1, sentence2, score, provenance, collected"


class Added(NamedTuple):
    """What became of pairs that came."""

    new: int
    updated: int
    """Pairs that the dataset had with another score."""

    @property
    def changed(self) -> int:
        """Pairs that the next round is the first to train on."""
        return self.new + self.updated


@dataclass(frozen=True)
class Selection:
    """Which pairs are meant: those for which everything holds that is given."""

    job: str | None = None
    task: str | None = None
    label: str | None = None
    score: float | None = None
    text: str | None = None
    """What one of the two sentences contains, letter for letter."""

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())

    def where(self) -> tuple[str, list[str | float]]:
        """An SQL condition on the rows of pairs, and its values."""
        conditions = {name: f"provenance ->> '{name}' = ?" for name in ("job", "task", "label")}
        conditions |= {"score": "score = ?", "text": "(instr(sentence1, ?) OR instr(sentence2, ?))"}
        given = {name: value for name, value in vars(self).items() if value is not None}
        values = [value for name, value in given.items() for _ in range(conditions[name].count("?"))]
        return " AND ".join(conditions[name] for name in given), values


@contextlib.contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction that sees, from its first read on, what nobody else can change."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        yield


def put(db: sqlite3.Connection, records: Iterable[tuple[PairRecord, float | None]]) -> Added:
    """Keep pairs, each with the time when it came, or None: now. Of two scores for a pair, the later one stays.

    A score that a person has corrected or checked stays too, unless the pair comes from a file: those have no time.
    """
    (last,) = db.execute("SELECT last_pair FROM total").fetchone()
    new, updated, now = 0, 0, time.time()
    for record, came in records:
        pair, hash_ = record.pair, bytes.fromhex(record.pair.content_hash)
        columns = "id, score, collected, checked OR corrected AS is_judged"
        stored = db.execute(f"SELECT {columns} FROM pair WHERE hash = ?", (hash_,)).fetchone()
        if stored is not None and stored["is_judged"] and came is not None:
            continue
        if came is None:  # whatever the clock of the machine that wrote the row says
            came = now if stored is None else max(now, stored["collected"])
        if stored is None:
            new += 1
        elif pair.score == stored["score"] or came < stored["collected"]:
            continue
        else:
            updated += len(take_out(db, [stored["id"]]))
        last += 1
        row = (last, hash_, pair.sentence1, pair.sentence2, pair.score, record.provenance.model_dump_json(), came)
        db.execute(f"INSERT INTO pair (id, {CONTENT}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    added = Added(new, updated)
    counts = (added.changed, added.changed, last)
    db.execute("UPDATE total SET pairs = pairs + ?, new_pairs = new_pairs + ?, last_pair = ?", counts)
    return added


def review(db: sqlite3.Connection, id_: int, score: float | None, checked: bool | None) -> int | None:
    """What a person says of a pair; its id now, which is another one with another score. None when it has gone."""
    row = db.execute(f"SELECT {CONTENT}, checked FROM pair WHERE id = ?", (id_,)).fetchone()
    if row is None:
        return None
    if checked is not None:
        db.execute("UPDATE pair SET checked = ? WHERE id = ?", (checked, id_))
    if score is None or score == row["score"]:
        return id_
    cosine = db.execute("SELECT cosine FROM cosine WHERE pair = ?", (id_,)).fetchone()
    take_out(db, [id_])
    last = int(db.execute("SELECT last_pair FROM total").fetchone()[0]) + 1
    values = dict(row) | {"id": last, "score": score, "corrected": True}
    values |= {"collected": max(time.time(), row["collected"])} | ({} if checked is None else {"checked": checked})
    names = ", ".join(f":{name}" for name in values)
    db.execute(f"INSERT INTO pair ({', '.join(values)}) VALUES ({names})", values)
    db.execute("UPDATE total SET pairs = pairs + 1, new_pairs = new_pairs + 1, last_pair = ?", (last,))
    if cosine is not None:
        db.execute("INSERT INTO cosine VALUES (?, ?, ?)", (last, cosine["cosine"], abs(cosine["cosine"] - score)))
    return last


def take_out(db: sqlite3.Connection, ids: Sequence[int]) -> list[bytes]:
    """Remove pairs, but not from a round that is under way; the content hashes of those that were there."""
    (of_rounds,) = db.execute("SELECT coalesce(max(last_pair), 0) FROM round").fetchone()
    (under_way,) = db.execute(f"SELECT coalesce(max(last_pair), 0) FROM round WHERE {UNFINISHED}").fetchone()
    db.executemany(
        f"INSERT INTO removed_pair (id, {CONTENT}, round)"
        f" SELECT id, {CONTENT}, (SELECT max(id) FROM round) FROM pair WHERE id = ?",
        [(id_,) for id_ in {*ids} if id_ <= under_way],
    )
    removed = [
        row for id_ in ids for row in db.execute("DELETE FROM pair WHERE id = ? RETURNING id, hash", (id_,)).fetchall()
    ]
    new = sum(row["id"] > of_rounds for row in removed)
    db.execute("UPDATE total SET pairs = pairs - ?, new_pairs = new_pairs - ?", (len(removed), new))
    return [row["hash"] for row in removed]
