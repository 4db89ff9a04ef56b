"""The collected pairs and the rounds that train on them, in one SQLite file that survives any kill.

Only the worker writes; a round's child process reads.
"""

import contextlib
import fcntl
import hashlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shared.pairs import Pair, PairRecord
from shared.process import Fatal

SCHEMA = 1
FILE = "pairs.sqlite"

TABLES = """
CREATE TABLE round (
    id INTEGER PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('planned', 'training', 'published', 'failed')),
    pairs INTEGER NOT NULL,
    dataset_hash TEXT,
    seed INTEGER NOT NULL,
    base TEXT NOT NULL,
    faults INTEGER NOT NULL DEFAULT 0,
    version TEXT,
    reason TEXT,
    started REAL,
    finished REAL
);
CREATE TABLE pair (
    hash TEXT PRIMARY KEY,
    sentence1 TEXT NOT NULL,
    sentence2 TEXT NOT NULL,
    score REAL NOT NULL,
    provenance TEXT NOT NULL,
    collected REAL NOT NULL,
    round INTEGER REFERENCES round (id)
);
CREATE INDEX pair_round ON pair (round);
"""


class State(StrEnum):
    """What became of a round: planned -> training -> published or failed."""

    PLANNED = "planned"
    TRAINING = "training"
    PUBLISHED = "published"
    FAILED = "failed"


@dataclass(frozen=True)
class Round:
    """One training run. Which pairs it has, its seed and its base never change, so it can be run again."""

    id: int
    """0 publishes the untrained base."""
    state: State
    pairs: int
    dataset_hash: str | None
    """SHA-256 over its pairs' content hashes and scores; None without pairs."""
    seed: int
    base: str
    faults: int
    """How many times its child process failed. A death of the trainer itself is not the round's fault."""
    version: str | None
    reason: str | None
    """Why it failed, or failed last."""
    started: float | None
    finished: float | None


COLUMNS = "id, state, pairs, dataset_hash, seed, base, faults, version, reason, started, finished"


class Dataset:
    """One dataset's pairs, unique by content hash, and its rounds."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def add(self, records: Sequence[PairRecord]) -> int:
        """Keep pairs durably; how many were new. The first score of a pair stays. Safe to repeat."""
        now = time.time()
        rows = [
            (
                record.pair.content_hash,
                record.pair.sentence1,
                record.pair.sentence2,
                record.pair.score,
                record.provenance.model_dump_json(),
                now,
            )
            for record in records
        ]
        with self._transaction():
            before = self._db.total_changes
            self._db.executemany(
                "INSERT OR IGNORE INTO pair (hash, sentence1, sentence2, score, provenance, collected)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )
            return self._db.total_changes - before

    def count(self) -> int:
        """All pairs."""
        return int(self._db.execute("SELECT count(*) FROM pair").fetchone()[0])

    def count_new(self) -> int:
        """Pairs that came since the last round was planned."""
        return int(self._db.execute("SELECT count(*) FROM pair WHERE round IS NULL").fetchone()[0])

    def plan_base(self, seed: int, base: str) -> Round:
        """Plan round 0, which has no pairs; it may be planned anew when the model store was emptied."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO round (id, state, pairs, seed, base) VALUES (0, 'planned', 0, ?, ?)",
                (seed, base),
            )
        return self.round(0)

    def plan(self, seed: int, base: str) -> Round:
        """Plan the next round on all pairs up to now."""
        with self._transaction():
            id_ = int(self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM round").fetchone()[0])
            self._db.execute(
                "INSERT INTO round (id, state, pairs, seed, base) VALUES (?, 'planned', ?, ?, ?)",
                (id_, self.count(), seed, base),
            )
            self._db.execute("UPDATE pair SET round = ? WHERE round IS NULL", (id_,))
            self._db.execute("UPDATE round SET dataset_hash = ? WHERE id = ?", (self._hash(id_), id_))
        return self.round(id_)

    def round(self, id_: int) -> Round:
        """A round. Raises `Fatal`."""
        row = self._db.execute(f"SELECT {COLUMNS} FROM round WHERE id = ?", (id_,)).fetchone()
        if row is None:
            raise Fatal(f"there is no round {id_}")
        return Round(**dict(row) | {"state": State(row["state"])})

    def unfinished(self) -> Round | None:
        """The oldest round that was planned or begun and not ended."""
        row = self._db.execute("SELECT id FROM round WHERE state IN ('planned', 'training') ORDER BY id").fetchone()
        return self.round(row["id"]) if row else None

    def pairs(self, round_: Round) -> list[Pair]:
        """What a round trains on, by content hash: everything collected until it was planned."""
        query = "SELECT sentence1, sentence2, score FROM pair WHERE round <= ? ORDER BY hash"
        return [Pair(**dict(row)) for row in self._db.execute(query, (round_.id,))]

    def begin(self, id_: int) -> None:
        """A child process starts on the round."""
        with self._transaction():
            self._db.execute("UPDATE round SET state = 'training', started = ? WHERE id = ?", (time.time(), id_))

    def count_fault(self, id_: int, reason: str) -> int:
        """The round's child process failed; how many times by now."""
        with self._transaction():
            self._db.execute("UPDATE round SET faults = faults + 1, reason = ? WHERE id = ?", (reason, id_))
        return self.round(id_).faults

    def finish(self, id_: int, version: str) -> None:
        """The round's version is published."""
        with self._transaction():
            self._db.execute(
                "UPDATE round SET state = 'published', version = ?, reason = NULL, finished = ? WHERE id = ?",
                (version, time.time(), id_),
            )

    def fail(self, id_: int) -> None:
        """The round is given up; its pairs stay for the next one."""
        with self._transaction():
            self._db.execute("UPDATE round SET state = 'failed', finished = ? WHERE id = ?", (time.time(), id_))

    def _hash(self, id_: int) -> str:
        digest = hashlib.sha256()
        for row in self._db.execute("SELECT hash, score FROM pair WHERE round <= ? ORDER BY hash", (id_,)):
            digest.update(f"{row['hash']} {row['score']!r}\n".encode())
        return digest.hexdigest()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE: a deferred transaction could fail halfway, when its first write finds the file locked.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A failed COMMIT (a full disk) leaves the transaction open or has ended it, depending on the fault.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the dataset's lock; the kernel gives it back when this process dies. Raises `Fatal` if another holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise Fatal(f"PAIRWRIGHT_HOME: can't use {folder}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Fatal(
                f"another trainer works on {folder}: stop it, or give this one another PAIRWRIGHT_HOME or "
                "PAIRWRIGHT_DATASET"
            ) from None
        yield


@contextlib.contextmanager
def open_dataset(folder: Path, read_only: bool = False) -> Iterator[Dataset]:
    """The dataset kept in `folder`, made if need be. Raises `Fatal` when its file can't be used."""
    file = folder / FILE
    if read_only and not file.is_file():
        raise Fatal(f"PAIRWRIGHT_HOME: there is no dataset in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(file, isolation_level=None, timeout=30)
    except (OSError, sqlite3.Error) as error:
        raise Fatal(f"PAIRWRIGHT_HOME: can't keep the dataset in {folder}: {error}") from None
    with contextlib.closing(connection):
        try:
            _prepare(connection, read_only)
        except sqlite3.Error as error:
            raise Fatal(f"PAIRWRIGHT_HOME: can't use the dataset {file}: {error}") from None
        yield Dataset(connection)


def _prepare(connection: sqlite3.Connection, read_only: bool) -> None:
    """Durability, and the tables of a new file."""
    connection.row_factory = sqlite3.Row
    # FULL: a commit is on disk before the pair is acknowledged, or a power cut could lose what Redis has forgotten.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > SCHEMA:
        raise Fatal(f"the dataset was written by a newer Pairwright (schema {found}, this one knows {SCHEMA})")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    elif found < SCHEMA:
        connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
