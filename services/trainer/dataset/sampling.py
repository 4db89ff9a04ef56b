"""A drawn sample of the dataset's texts, of pairs and of passages, whatever their number."""

import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

DELETIONS = "deletions"
"""The fact that counts how often texts were deleted: what was computed of them before is out of date."""
ALL_AT = 4
"""Where the dataset has at most so many times what is wanted, all rows are read and a sample is taken."""
TRIES = 3

PAIRS = (
    "SELECT id, sentence1, CASE WHEN provenance ->> 'task' = 'retrieval' THEN NULL ELSE sentence2 END,"
    " provenance ->> 'label', provenance ->> 'job' FROM pair"
)
PASSAGES = (
    "SELECT id, iif(title = '', text, title || ' ' || text), NULL, NULL, (SELECT iif(source = '', name, source)"
    " FROM place JOIN document ON document.id = place.document"
    " WHERE place.passage = passage.id ORDER BY document.id LIMIT 1) FROM passage"
)


class SampledText(NamedTuple):
    """A text of the dataset."""

    id: int
    """The pair's or the passage's."""
    text: str
    kind: Literal["pair", "passage"]
    label: str | None
    """Of a pair."""
    source: str | None
    """A pair's job, a passage's file or else its document."""


Draw = Callable[[sqlite3.Row], Iterable[SampledText]]


class Sampling:
    """One dataset's texts, drawn by chance."""

    _db: sqlite3.Connection

    def sample_texts(self, most: int, seed: int) -> list[SampledText]:
        """At most so many different texts: half of pairs and half of passages, more of one where the other is short.

        The same seed draws the same texts of the same dataset. Drawn in time that does not grow with the dataset.
        """
        pairs = self._draw("pair", PAIRS, most, random.Random(seed))
        passages = self._draw("passage", PASSAGES, most, random.Random(seed))
        wanted = min(len(pairs), max(most // 2, most - len(passages)))
        return [*pairs[:wanted], *passages[: most - wanted]]

    def _draw(
        self, table: Literal["pair", "passage"], query: str, most: int, chance: random.Random
    ) -> list[SampledText]:
        """At most so many different texts of one kind, in a random order."""
        last = int(self._db.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0])
        rows: Iterable[sqlite3.Row]
        if last <= ALL_AT * most:
            rows = self._db.execute(query).fetchall()
            texts = [text for row in rows for text in _texts(row, table)]
            chance.shuffle(texts)
        else:  # the row behind a random id: deleted ones leave gaps
            drawn = [chance.randint(1, last) for _ in range(TRIES * most)]
            rows = filter(None, (self._db.execute(f"{query} WHERE {table}.id >= ? ORDER BY {table}.id LIMIT 1", (one,))
                                 .fetchone() for one in drawn))  # fmt: skip
            texts = [chance.choice(_texts(row, table)) for row in rows]
        return list({one.text: one for one in texts[::-1]}.values())[::-1][:most]

    def surprises(self) -> dict[str, float]:
        """How far the cosine is from the score, by sentence: the mean of its pairs that have a cosine."""
        query = "SELECT sentence1, sentence2, surprise FROM cosine JOIN pair ON pair.id = cosine.pair"
        sums, counts = Counter[str](), Counter[str]()
        for first, second, surprise in self._db.execute(query):
            for text in (first, second):
                sums[text] += surprise
                counts[text] += 1
        return {text: sums[text] / count for text, count in counts.items()}

    def deletions(self) -> int:
        """How often texts were deleted."""
        row = self._db.execute("SELECT value FROM fact WHERE name = ?", (DELETIONS,)).fetchone()
        return 0 if row is None else int(row[0])


def count_deletion(db: sqlite3.Connection) -> None:
    """Texts are deleted. Within a transaction."""
    query = "INSERT INTO fact VALUES (?, '1') ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1"
    db.execute(query, (DELETIONS,))


def _texts(row: Sequence[object], kind: Literal["pair", "passage"]) -> list[SampledText]:
    """The texts of a row; of a query written for a passage, the query alone, as the passage stands for itself."""
    id_, first, second, label, source = row
    facts = {"id": id_, "kind": kind, "label": label, "source": source}
    return [SampledText(**facts | {"text": text}) for text in (first, second) if text is not None]  # type: ignore[arg-type]
