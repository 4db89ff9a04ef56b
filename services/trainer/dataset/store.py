"""The collected pairs and the rounds that train on them, in one SQLite file that survives any kill.

The trainer that holds the lease writes rounds; pairs are also written by `dataset import` and `dataset delete`. A
round's process reads, and writes the cosines of the version that is current when it ends.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, TypeVar

from services.trainer.dataset.browsing import Browsing
from services.trainer.dataset.document_rows import Documents
from services.trainer.dataset.pair_rows import PORTION, UNFINISHED, Added, Selection, put, take_out, writing
from services.trainer.dataset.sampling import Sampling, count_deletion
from services.trainer.dataset.schema import WRITTEN_FOR_A_PASSAGE, prepare
from shared.errors import Fatal
from shared.pairs import Pair, PairRecord, Provenance

FILE = "pairs.sqlite"
OF_ROUND = (
    "SELECT {0} FROM pair WHERE id <= :last_pair"
    " UNION ALL SELECT {0} FROM removed_pair WHERE id <= :last_pair AND round >= :id"
)
"""Columns of a round's pairs; its values are the round's."""
Result = TypeVar("Result")
Curves = dict[str, list[tuple[int, float]]]
"""`loss` and `dev` (Spearman x 100), each as points of step and value."""

State = StrEnum("State", ["PLANNED", "TRAINING", "PUBLISHED", "REJECTED", "FAILED"])
"""What became of a round: planned -> training -> published, rejected by the gate, or failed."""


@dataclass(frozen=True)
class Round:
    """One training run. Which pairs it has, its seed and its base never change, so it can be run again."""

    id: int
    """0 publishes the untrained base."""
    state: State
    pairs: int
    """How many it has."""
    last_pair: int
    """It has the pairs with ids up to this one that were there when it was planned."""
    dataset_hash: str | None
    """SHA-256 over its pairs' content hashes and scores; None without pairs, and until it is computed."""
    seed: int
    base: str
    start: str | None
    """The version that training continues from, with `warm_start`; None from the base."""
    faults: int
    """How many times its child process failed. A death of the trainer itself doesn't count."""
    version: str | None
    reason: str | None
    """Why it failed, failed last, or was rejected."""
    started: float | None
    finished: float | None


class StoredPair(NamedTuple):
    """A pair of the dataset: plain, because there may be millions."""

    id: int
    hash: bytes
    sentence1: str
    sentence2: str
    score: float


class Origin(NamedTuple):
    """Who wrote how many pairs, and of which kind."""

    teacher: str
    task: str
    label: str
    pairs: int


class Dataset(Documents, Browsing, Sampling):
    """One dataset's pairs, unique by content hash, its documents and its rounds."""

    @property
    def id(self) -> str:
        """Names this dataset's file among all."""
        return str(self._db.execute("SELECT value FROM fact WHERE name = 'id'").fetchone()[0])

    def add(
        self, records: Sequence[PairRecord], traceparents: Iterable[str] = (), times: Sequence[float] = ()
    ) -> Added:
        """Keep pairs that these spans brought, and that came at these times (Unix; else now). Safe to repeat.

        A pair that is there with another score gets the one that came later, and counts as new in the next round.
        """
        with writing(self._db):
            added = put(self._db, zip(records, times or repeat(None), strict=False))
            (last,) = self._db.execute("SELECT last_pair FROM total").fetchone()
            self._db.executemany(
                "INSERT INTO trace (id, traceparent, first_pair, last_pair) VALUES (?, ?, ?, ?) ON CONFLICT (id)"
                " DO UPDATE SET traceparent = excluded.traceparent, last_pair = excluded.last_pair",
                [(one.split("-")[1], one, last - added.changed + 1, last) for one in traceparents if added.changed],
            )
            return added

    def find(self, selection: Selection, after: int = 0, most: int = PORTION) -> list[int]:
        """The ids of selected pairs, ascending: at most so many, after this one."""
        condition, values = selection.where()
        query = f"SELECT id FROM pair WHERE {condition} AND id > ? ORDER BY id LIMIT ?"
        return [row[0] for row in self._db.execute(query, (*values, after, most))]

    def count_selected(self, selection: Selection) -> int:
        """How many pairs are selected."""
        condition, values = selection.where()
        return int(self._db.execute(f"SELECT count(*) FROM pair WHERE {condition}", values).fetchone()[0])

    def remove(self, ids: Sequence[int]) -> list[str]:
        """Delete pairs; the content hashes of those that were there. A round that is under way keeps them."""
        with writing(self._db):
            removed = take_out(self._db, ids)
            if removed:
                count_deletion(self._db)
            return [hash_.hex() for hash_ in removed]

    def traceparents(self, round_: Round) -> list[str]:
        """The spans that brought the pairs which a round is the first to train on, oldest first."""
        query = (
            "SELECT traceparent FROM trace WHERE first_pair <= ? AND last_pair >"
            " (SELECT coalesce(max(last_pair), 0) FROM round WHERE id < ? AND state IN ('published', 'rejected'))"
            " ORDER BY last_pair, rowid"
        )
        return [row[0] for row in self._db.execute(query, (round_.last_pair, round_.id))]

    def forget_traces(self, round_: Round) -> None:
        """The round has ended, in the traces of its pairs too."""
        with self._db:
            self._db.execute("DELETE FROM trace WHERE last_pair <= ?", (round_.last_pair,))

    def count(self) -> int:
        """All pairs."""
        return int(self._db.execute("SELECT pairs FROM total").fetchone()[0])

    def count_new(self) -> int:
        """Pairs that came, or got another score, since the last round was planned."""
        return int(self._db.execute("SELECT new_pairs FROM total").fetchone()[0])

    def count_after(self, round_: Round, last_pair: int) -> int:
        """A round's pairs with higher ids than this one."""
        query = f"SELECT count(*) FROM ({OF_ROUND.format('id')}) WHERE id > :after"
        return int(self._db.execute(query, vars(round_) | {"after": last_pair}).fetchone()[0])

    def hash(self, round_: Round | None = None) -> str | None:
        """SHA-256 over a round's or all pairs: a line each, its hash in hexadecimal digits and its score, by hash."""
        digest, columns = hashlib.sha256(), "hash, score"
        query = f"SELECT {columns} FROM pair" if round_ is None else OF_ROUND.format(columns)
        if not (self.count() if round_ is None else round_.pairs):
            return None
        for row in self._db.execute(f"{query} ORDER BY hash", {} if round_ is None else vars(round_)):
            digest.update(f"{row['hash'].hex()} {row['score']!r}\n".encode())
        return digest.hexdigest()

    def plan_base(self, seed: int, base: str) -> Round:
        """Plan round 0, which has no pairs; it may be planned anew when the model store was emptied."""
        query = "INSERT OR REPLACE INTO round (id, state, pairs, seed, base) VALUES (0, 'planned', 0, ?, ?)"
        with self._db:
            self._db.execute(query, (seed, base))
        return self.round(0)

    def plan(self, seed: int, base: str, start: str | None = None) -> Round:
        """Plan the next round on all pairs. Its hash takes a second a million, and is to be set before it is run."""
        query = (
            "INSERT INTO round (state, pairs, last_pair, seed, base, start)"
            " SELECT 'planned', pairs, last_pair, ?, ?, ? FROM total"
        )
        with writing(self._db):  # SQLite gives it the next id
            id_ = self._db.execute(query, (seed, base, start)).lastrowid
            self._db.execute("UPDATE total SET new_pairs = 0")
        return self.round(id_ or 0)

    def set_hash(self, id_: int, dataset_hash: str | None) -> Round:
        """The round with its hash."""
        self._update(id_, dataset_hash=dataset_hash)
        return self.round(id_)

    def round(self, id_: int) -> Round:
        """A round. Raises `Fatal`."""
        for round_ in self._select("id = ?", id_):
            return round_
        raise Fatal(f"there is no round {id_}")

    def unfinished(self) -> Round | None:
        """The oldest round that was planned or begun and not ended."""
        return next(iter(self._select(UNFINISHED)), None)

    def rounds(self) -> list[Round]:
        """All rounds, oldest first."""
        return self._select("true")

    def newest_rounds(self, most: int) -> list[Round]:
        """At most so many rounds, the newest first."""
        return self._select("id IN (SELECT id FROM round ORDER BY id DESC LIMIT ?)", most)[::-1]

    def curves(self, id_: int) -> Curves:
        """A round's curves; {} of one that never got so far, or of an older Pairwright."""
        row = self._db.execute("SELECT points FROM curve WHERE round = ?", (id_,)).fetchone()
        return {} if row is None else json.loads(row["points"])

    def set_curves(self, id_: int, curves: Curves) -> None:
        """Keep a round's curves in place of those before."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO curve VALUES (?, ?)", (id_, json.dumps(curves)))

    def _select(self, condition: str, *values: object) -> list[Round]:
        rows = self._db.execute(f"SELECT * FROM round WHERE {condition} ORDER BY id", values)
        return [Round(**dict(row) | {"state": State(row["state"])}) for row in rows]

    def pairs(self, round_: Round) -> Iterator[StoredPair]:
        """A round's pairs, one after the other: by sentence1, then sentence2, however they came. Not its queries."""
        columns = "id, hash, sentence1, sentence2, score"
        query = (
            f"SELECT {columns} FROM ({OF_ROUND.format(f'{columns}, provenance')})"
            f" WHERE NOT {WRITTEN_FOR_A_PASSAGE} ORDER BY sentence1, sentence2"
        )
        return (StoredPair(*row) for row in self._db.execute(query, vars(round_)))

    def queries(self, round_: Round) -> Iterator[tuple[str, str]]:
        """A round's queries that were written for passages, each with its passage, by both."""
        query = (
            f"SELECT sentence1, sentence2 FROM ({OF_ROUND.format('sentence1, sentence2, provenance')})"
            f" WHERE {WRITTEN_FOR_A_PASSAGE} ORDER BY sentence1, sentence2"
        )
        return ((row[0], row[1]) for row in self._db.execute(query, vars(round_)))

    def records(self) -> Iterator[tuple[PairRecord, float]]:
        """Every pair with its provenance and when it was collected, in the order they came."""
        query = "SELECT sentence1, sentence2, score, provenance, collected FROM pair ORDER BY id"
        for row in self._db.execute(query):
            pair = Pair.model_construct(sentence1=row[0], sentence2=row[1], score=row[2])
            yield PairRecord.model_construct(pair=pair, provenance=Provenance.model_validate_json(row[3])), row[4]

    def scores(self) -> dict[float, int]:
        """Pairs by score, ascending; scores of many values in tenths."""
        rows = self._db.execute("SELECT score, count(*) FROM pair GROUP BY 1 ORDER BY 1 LIMIT 21").fetchall()
        if len(rows) > 20:
            rows = self._db.execute("SELECT round(score, 1), count(*) FROM pair GROUP BY 1 ORDER BY 1").fetchall()
        return {row[0]: row[1] for row in rows}

    def sentences(self) -> dict[str, float]:
        """How many different sentence1 there are, and how long a sentence is on average."""
        query = "SELECT count(DISTINCT sentence1), avg(length(sentence1) + length(sentence2)) / 2 FROM pair"
        different, mean = self._db.execute(query).fetchone()
        return {"different_sentence1": different, "mean_characters": round(mean or 0, 1)}

    def origins(self, round_: Round | None = None) -> list[Origin]:
        """Where a round's or all pairs came from, the most frequent first."""
        rows = "SELECT provenance FROM pair" if round_ is None else OF_ROUND.format("provenance")
        query = (
            "SELECT provenance ->> 'teacher', provenance ->> 'task', provenance ->> 'label', count(*)"
            f" FROM ({rows}) GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3"
        )
        return [Origin(*row) for row in self._db.execute(query, {} if round_ is None else vars(round_))]

    def begin(self, id_: int) -> None:
        """A child process starts on the round."""
        self._update(id_, state=State.TRAINING, started=time.time())

    def count_failure(self, id_: int, reason: str) -> int:
        """The round's child process failed; how many times by now."""
        failures = self.round(id_).faults + 1
        self._update(id_, faults=failures, reason=reason)
        return failures

    def finish(self, id_: int, version: str, rejection: str | None = None) -> None:
        """The round's version is published, or was rejected for a reason."""
        state = State.PUBLISHED if rejection is None else State.REJECTED
        self._update(id_, state=state, version=version, reason=rejection, finished=time.time())

    def fail(self, id_: int) -> None:
        """The round is given up; its pairs stay for the next one."""
        self._update(id_, state=State.FAILED, finished=time.time())

    def _update(self, id_: int, **columns: object) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        with self._db:
            self._db.execute(f"UPDATE round SET {assignments} WHERE id = ?", (*columns.values(), id_))
            if "finished" in columns:
                self._db.execute(f"DELETE FROM removed_pair WHERE NOT EXISTS (SELECT 1 FROM round WHERE {UNFINISHED})")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[bool]:
    """Yields whether the lock of the dataset's trainer is ours now; the kernel frees it when we die. Raises `Fatal`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise Fatal(f"PAIRWRIGHT_HOME: can't use {folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextlib.contextmanager
def open_dataset(folder: Path, read_only: bool = False) -> Iterator[Dataset]:
    """The dataset kept in `folder`, made if need be. Raises `Fatal` when its file can't be used."""
    file = folder / FILE
    if read_only and not file.is_file():
        raise Fatal(f"PAIRWRIGHT_HOME: there is no dataset in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Any thread may use it, though only one at a time: the worker keeps SQLite off its event loop's thread.
        # IMMEDIATE: a deferred transaction could fail halfway, when its first write finds the file locked.
        connection = sqlite3.connect(file, isolation_level="IMMEDIATE", timeout=30, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise Fatal(f"PAIRWRIGHT_HOME: can't keep the dataset in {folder}: {error}") from None
    with contextlib.closing(connection):
        try:
            prepare(connection, read_only)
        except sqlite3.Error as error:
            raise Fatal(f"PAIRWRIGHT_HOME: can't use the dataset {file}: {error}") from None
        yield Dataset(connection)


class DatasetThread(ThreadPoolExecutor):
    """Runs calls on a dataset in one thread, each to its end even when its caller is cancelled."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        super().__init__(1, "dataset")
        self._dataset, self._folder = dataset, folder

    async def run(self, call: Callable[[Dataset], Result]) -> Result:
        """The result of `call`, or its error."""
        return await asyncio.get_running_loop().run_in_executor(self, call, self._dataset)

    async def run_beside(self, call: Callable[[Dataset], Result]) -> Result:
        """The result of a `call` that only reads and may take seconds: other calls don't wait for it."""

        def _read() -> Result:
            with open_dataset(self._folder, read_only=True) as dataset:
                return call(dataset)

        return await asyncio.to_thread(_read)
