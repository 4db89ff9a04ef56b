"""The rows of documents and their passages: put in, replaced, taken out with the queries that were written for them."""

import sqlite3
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple

from services.trainer.dataset.pair_rows import PORTION, take_out, writing
from services.trainer.dataset.sampling import count_deletion
from services.trainer.dataset.schema import WRITTEN_FOR_A_PASSAGE
from shared.documents import Document, Passage, passage_content

QUERIES_OF = f"SELECT id FROM pair INDEXED BY pair_passage WHERE sentence2 = ? AND {WRITTEN_FOR_A_PASSAGE}"
"""The pairs that were written for a passage. Left to itself, SQLite takes the index of tasks and reads all queries."""


SHORT, LOOKED_AT, MOST_TITLES = 120, 1_000, 0.1
"""Characters of a text that is no longer than a sentence; the first passages, and the share of them with a title."""


class StoredPassage(NamedTuple):
    """A passage of the corpus: plain, because there may be millions."""

    id: int
    document: str
    """The id of the first document that has it."""
    title: str
    text: str

    @property
    def content(self) -> str:
        """As `shared.documents.Passage` has it."""
        return passage_content(self.title, self.text)


class CorpusSize(NamedTuple):
    """How much there is."""

    documents: int
    passages: int
    """Different ones."""
    duplicates: int
    """Passages that were left out because another place has the same content."""


@dataclass
class AddedDocuments:
    """What became of documents that came."""

    new: int = 0
    replaced: int = 0
    pairs: list[str] = field(default_factory=list)
    """Content hashes of the pairs that were deleted, because no document has their passage any more."""

    @property
    def changed(self) -> int:
        """Documents that the dataset didn't have like this."""
        return self.new + self.replaced


@dataclass(frozen=True)
class DocumentSelection:
    """Which documents are meant: those for which everything holds that is given."""

    id: str | None = None
    source: str | None = None
    text: str | None = None
    """What the title or text of one of its passages contains, letter for letter."""

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())

    def where(self) -> tuple[str, dict[str, str]]:
        """An SQL condition on the rows of documents, and its values."""
        conditions = {
            "id": "name = :id",
            "source": "source = :source",
            "text": "EXISTS (SELECT 1 FROM place JOIN passage ON passage.id = place.passage"
            " WHERE place.document = document.id AND (instr(passage.text, :text) OR instr(passage.title, :text)))",
        }
        given = {name: value for name, value in vars(self).items() if value is not None}
        return " AND ".join(conditions[name] for name in given), given


class Documents:
    """One dataset's corpus."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def add_documents(self, documents: Sequence[Document], times: Sequence[float] = ()) -> AddedDocuments:
        """Keep documents that came at these times (Unix; else now). Safe to repeat.

        A document takes the place of one with its id that came before. Pairs written for a passage that is in no
        document any more go with it, though a round that is under way keeps them.
        """
        added = AddedDocuments()
        with writing(self._db):
            for document, came in zip(documents, times or repeat(None), strict=False):
                _put(self._db, document, came, added)
        return added

    def find_documents(self, selection: DocumentSelection, after: int = 0, most: int = PORTION) -> list[int]:
        """The row numbers of selected documents, ascending: at most so many, after this one."""
        condition, values = selection.where()
        query = f"SELECT id FROM document WHERE {condition} AND id > :after ORDER BY id LIMIT :most"
        return [row[0] for row in self._db.execute(query, values | {"after": after, "most": most})]

    def count_selected_documents(self, selection: DocumentSelection) -> int:
        """How many documents are selected."""
        condition, values = selection.where()
        return int(self._db.execute(f"SELECT count(*) FROM document WHERE {condition}", values).fetchone()[0])

    def remove_documents(self, ids: Sequence[int]) -> tuple[list[str], list[str]]:
        """Delete documents by row number, and the pairs written for passages that no other document has.

        The ids of those documents that were there, and the content hashes of the pairs.
        """
        names, pairs = [], list[str]()
        with writing(self._db):
            for id_ in ids:
                before = _passages_of(self._db, id_)
                _clear(self._db, id_)
                rows = self._db.execute("DELETE FROM document WHERE id = ? RETURNING name", (id_,)).fetchall()
                names += [row["name"] for row in rows]
                pairs += _drop_orphans(self._db, before)
            self._db.execute("UPDATE corpus SET documents = documents - ?", (len(names),))
        return names, pairs

    def corpus_size(self) -> CorpusSize:
        """How much there is; counted as it comes, so that it takes no time."""
        row = self._db.execute("SELECT documents, passages, places - passages FROM corpus").fetchone()
        return CorpusSize(*row)

    def count_passages(self) -> int:
        """Different passages."""
        return self.corpus_size().passages

    def holds_short_texts(self) -> bool:
        """Whether the first passages are as short as sentences and without titles: messages, requests, headlines."""
        first = list(self.passages(most=LOOKED_AT))
        titles = sum(bool(passage.title) for passage in first)
        lengths = [len(passage.text) for passage in first]
        return bool(first) and titles <= MOST_TITLES * len(first) and statistics.median(lengths) <= SHORT

    def last_passage(self) -> int:
        """The id of the passage that came last; 0 without any."""
        return int(self._db.execute("SELECT coalesce(max(id), 0) FROM passage").fetchone()[0])

    def passages(self, after: int = 0, most: int = -1) -> Iterator[StoredPassage]:
        """Different passages with ids above `after`, ascending: at most so many. No id is used twice."""
        query = (
            "SELECT id, (SELECT name FROM place JOIN document ON document.id = place.document"
            " WHERE place.passage = passage.id ORDER BY document.id LIMIT 1), title, text"
            " FROM passage WHERE id > ? ORDER BY id LIMIT ?"
        )
        return (StoredPassage(*row) for row in self._db.execute(query, (after, most)))


def _put(db: sqlite3.Connection, document: Document, came: float | None, added: AddedDocuments) -> None:
    """Keep one document, unless it is there like this or a later one of its id is."""
    digest = bytes.fromhex(document.digest)
    stored = db.execute("SELECT id, digest, collected FROM document WHERE name = ?", (document.id,)).fetchone()
    if came is None:  # whatever the clock of the machine that wrote the row says
        came = time.time() if stored is None else max(time.time(), stored["collected"])
    if stored is not None and (stored["digest"] == digest or came < stored["collected"]):
        return
    row = (document.id, document.title, document.url, document.source, bytes.fromhex(document.hash), digest, came)
    if stored is None:
        names = "name, title, url, source, hash, digest, collected"
        id_ = db.execute(f"INSERT INTO document ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)", row).lastrowid or 0
        db.execute("UPDATE corpus SET documents = documents + 1")
        added.new += 1
        before = set[int]()
    else:
        id_, before = stored["id"], _passages_of(db, stored["id"])
        assignments = "name = ?, title = ?, url = ?, source = ?, hash = ?, digest = ?, collected = ?"
        db.execute(f"UPDATE document SET {assignments} WHERE id = ?", (*row, id_))
        _clear(db, id_)
        added.replaced += 1
    for passage in document.passages:
        _place(db, id_, passage)
    added.pairs += _drop_orphans(db, before)


def _place(db: sqlite3.Connection, document: int, passage: Passage) -> None:
    """Keep where a passage is, and the passage itself if it is nowhere else."""
    hash_ = bytes.fromhex(passage.content_hash)
    row = db.execute("SELECT id FROM passage WHERE hash = ?", (hash_,)).fetchone()
    if row is None:
        values = (hash_, passage.title, passage.text)
        id_ = db.execute("INSERT INTO passage (hash, title, text) VALUES (?, ?, ?)", values).lastrowid
        db.execute("UPDATE corpus SET passages = passages + 1")
    else:
        id_ = row["id"]
    place = (id_, document, passage.start, passage.end)
    placed = db.execute('INSERT OR IGNORE INTO place (passage, document, start, "end") VALUES (?, ?, ?, ?)', place)
    db.execute("UPDATE corpus SET places = places + ?", (placed.rowcount,))


def _passages_of(db: sqlite3.Connection, document: int) -> set[int]:
    return {row[0] for row in db.execute("SELECT passage FROM place WHERE document = ?", (document,))}


def _clear(db: sqlite3.Connection, document: int) -> None:
    """Take a document's passages from it; they stay in the corpus."""
    gone = db.execute("DELETE FROM place WHERE document = ?", (document,)).rowcount
    db.execute("UPDATE corpus SET places = places - ?", (gone,))


def _drop_orphans(db: sqlite3.Connection, passages: Iterable[int]) -> list[str]:
    """Delete those of these passages that no document has, and the pairs written for them; the pairs' hashes."""
    orphans = "id = ? AND NOT EXISTS (SELECT 1 FROM place WHERE passage = passage.id)"
    pairs = list[int]()
    for id_ in sorted(passages):
        row = db.execute(f"DELETE FROM passage WHERE {orphans} RETURNING id, '', title, text", (id_,)).fetchone()
        if row is None:
            continue
        db.execute("UPDATE corpus SET passages = passages - 1")
        count_deletion(db)
        pairs += [row[0] for row in db.execute(QUERIES_OF, (StoredPassage(*row).content,))]
    return [hash_.hex() for hash_ in take_out(db, pairs)]
