"""Pages of pairs: filters, orders and cursors, at the same speed wherever one is among millions."""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from services.trainer.dataset.pair_rows import review, writing

Order = Literal["newest", "oldest", "surprise"]
MOST_SCANNED = 5_000
"""Rows that are looked at for one page: a filter that nothing matches ends a page early and not the search.

By surprise it is two fifths, because each row is looked for apart.
"""
NEWEST_JOBS = 20
COSINES = "cosines"
"""The fact that names the version whose cosines are kept."""
COLUMNS = (
    "id, sentence1, sentence2, score, provenance ->> 'job' AS job, provenance ->> 'task' AS task,"
    " provenance ->> 'label' AS label, checked, corrected, cosine, collected"
)


class BrowsedPair(NamedTuple):
    """A pair with what is known of it."""

    id: int
    sentence1: str
    sentence2: str
    score: float
    job: str
    task: str
    label: str
    checked: bool
    """A person has looked at it."""
    corrected: bool
    """A person gave it another score."""
    cosine: float | None
    collected: float
    """Unix time."""


class Position(NamedTuple):
    """Where a page ends; the next one goes on behind it."""

    id: int
    surprise: float = 0.0


class PairsPage(NamedTuple):
    """Some pairs in their order, and where to go on; None at the end."""

    pairs: list[BrowsedPair]
    next: Position | None


class Summary(NamedTuple):
    """What there is to filter by, each with its pairs."""

    total: int
    new: int
    checked: int
    tasks: dict[str, int]
    labels: dict[str, int]
    jobs: dict[str, int]
    """The newest first."""


@dataclass(frozen=True)
class PairFilter:
    """Which pairs are looked for: those for which everything holds that is given."""

    job: str | None = None
    task: str | None = None
    label: str | None = None
    checked: bool | None = None
    score: float | None = None
    min_score: float | None = None
    max_score: float | None = None
    text: str | None = None
    """What one of the two sentences contains; A to Z may be small or capital."""

    def where(self) -> tuple[str, str, dict[str, object]]:
        """Two SQL conditions and their values: one that an index of `pair` answers, and the others."""
        conditions = {name: f"pair.provenance ->> '{name}' = :{name}" for name in ("job", "label", "task")}
        conditions["checked"] = "pair.checked = 1" if self.checked else "pair.checked = 0"
        conditions |= {
            "score": "score = :score",
            "min_score": "score >= :min_score",
            "max_score": "score <= :max_score",
        }
        conditions["text"] = " OR ".join(f"instr(lower({one}), lower(:text))" for one in ("sentence1", "sentence2"))
        conditions["text"] = f"({conditions['text']})"
        given = {name: value for name, value in vars(self).items() if value is not None}
        indexed = [name for name in ("job", "checked", "label", "task") if given.get(name)][:1]
        others = [conditions[name] for name in conditions if name in given and name not in indexed]
        return conditions[indexed[0]] if indexed else "true", " AND ".join(others) or "true", given


class Browsing:
    """One dataset's pairs, as a person looks at them."""

    _db: sqlite3.Connection

    def page(self, wanted: PairFilter, order: Order, most: int, after: Position | None = None) -> PairsPage:
        """At most so many pairs behind a position. It may have fewer, or none, and still a `next`: look on there."""
        found, last, scanned = list[Position](), None, 0
        most_scanned = max(1, MOST_SCANNED * 2 // 5) if order == "surprise" else MOST_SCANNED
        for id_, surprise, matches in self._scan(wanted, order, most_scanned, after):
            if matches and len(found) == most:
                return PairsPage(self._load(found), found[-1])
            last, scanned = Position(id_, surprise), scanned + 1
            if matches:
                found.append(last)
        return PairsPage(self._load(found), last if scanned == most_scanned else None)

    def _scan(
        self, wanted: PairFilter, order: Order, most: int, after: Position | None
    ) -> Iterable[tuple[int, float, bool]]:
        """Id, surprise and whether it matches, of at most so many pairs behind a position."""
        indexed, others, values = wanted.where()
        values |= {"most": most} | (after._asdict() if after else {})
        if order == "surprise":
            behind = "(surprise, cosine.pair) < (:surprise, :id)" if after else "true"
            query = (
                f"SELECT pair.id, surprise, ({indexed} AND {others}) FROM cosine CROSS JOIN pair"
                f" ON pair.id = cosine.pair WHERE {behind} ORDER BY surprise DESC, cosine.pair DESC LIMIT :most"
            )
        else:
            sign, direction = ("<", "DESC") if order == "newest" else (">", "ASC")
            behind = f"id {sign} :id" if after else "true"
            query = (
                f"SELECT id, 0.0, ({others}) FROM pair WHERE {indexed} AND {behind} ORDER BY id {direction} LIMIT :most"
            )
        return self._db.execute(query, values)

    def _load(self, found: list[Position]) -> list[BrowsedPair]:
        query = f"SELECT {COLUMNS} FROM pair LEFT JOIN cosine ON cosine.pair = pair.id WHERE id = ?"
        rows = (self._db.execute(query, (one.id,)).fetchone() for one in found)
        return [
            BrowsedPair(**dict(row) | {name: bool(row[name]) for name in ("checked", "corrected")})
            for row in rows
            if row is not None
        ]

    def browsed(self, id_: int) -> BrowsedPair | None:
        """A pair by its id; None when it has gone."""
        return next(iter(self._load([Position(id_)])), None)

    def review(self, id_: int, score: float | None = None, checked: bool | None = None) -> BrowsedPair | None:
        """Give a pair another score, or mark it; the pair, with a new id if it has another score. None: it has gone."""
        with writing(self._db):
            now = review(self._db, id_, score, checked)
        return None if now is None else self.browsed(now)

    def summary(self) -> Summary:
        """Counts; they are kept as pairs come and go, so that this takes no time."""
        total, new = self._db.execute("SELECT pairs, new_pairs FROM total").fetchone()
        (checked,) = self._db.execute("SELECT count(*) FROM pair WHERE checked = 1").fetchone()
        return Summary(total, new, checked, self._counts("task"), self._counts("label"), self._counts("job"))

    def _counts(self, column: str) -> dict[str, int]:
        by, most = ("max(last_pair) DESC", NEWEST_JOBS) if column == "job" else ("2 DESC, 1", -1)
        query = f"SELECT {column}, sum(pairs) FROM origin GROUP BY 1 ORDER BY {by} LIMIT ?"
        return {row[0]: row[1] for row in self._db.execute(query, (most,))}

    def newest_pairs(self, most: int) -> Iterator[tuple[int, str, str]]:
        """Id and sentences of at most so many pairs, the newest first."""
        query = "SELECT id, sentence1, sentence2 FROM pair ORDER BY id DESC LIMIT ?"
        return ((row[0], row[1], row[2]) for row in self._db.execute(query, (most,)))

    def set_cosines(self, version: str, cosines: Iterable[tuple[int, float]]) -> int:
        """Keep a version's cosines by pair id in place of those before; how many of these pairs are still there."""
        query = "INSERT INTO cosine SELECT id, :cosine, abs(:cosine - score) FROM pair WHERE id = :id"
        with writing(self._db):
            self._db.execute("DELETE FROM cosine")
            self._db.executemany(query, [{"id": id_, "cosine": cosine} for id_, cosine in cosines])
            self._db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (COSINES, version))
            return int(self._db.execute("SELECT count(*) FROM cosine").fetchone()[0])

    def cosine_version(self) -> str | None:
        """The version whose cosines are kept."""
        row = self._db.execute("SELECT value FROM fact WHERE name = ?", (COSINES,)).fetchone()
        return None if row is None else str(row[0])
