"""A round's corpus: the passages and queries that it learns from and is measured on, as they were when it began.

A query is held out with the documents that have its passage: by a hash, so the same ones in each round. Where the
teacher has written no queries, titles take their place, and a held-out document is then read without its title.
"""

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from services.trainer.dataset.arrow import TableWriter, portions
from services.trainer.dataset.store import Dataset, Round
from services.trainer.training.split import digest, in_dev
from shared.documents import passage_content

PASSAGES, QUERIES, STATS = "passages.arrow", "queries.arrow", "corpus.json"
PASSAGE_COLUMNS = pa.schema({"title": pa.string(), "text": pa.string(), "held_out": pa.bool_()})
QUERY_COLUMNS = pa.schema({"query": pa.string(), "passage": pa.string(), "held_out": pa.bool_()})
ENOUGH, SHARES = 200, (0.1, 0.5)
"""Documents that are held out, and the least and the largest share of all that they may be."""
FEWEST = 40
"""Held-out queries; with fewer, titles are asked too."""
SHORTEST_TITLE = 15
"""Characters: less is a name or a number, and no query."""


@dataclass(frozen=True)
class CorpusStats:
    """What a round found."""

    passages: int
    queries: int
    held_out: int
    """Queries that are not trained on."""
    titles: bool
    """Whether the queries are titles, because too few were written."""
    short_texts: bool = False
    """Whether the passages are as short as sentences, and nothing asks for them: they are compared, not searched."""


@dataclass(frozen=True)
class Corpus:
    """Passages and queries in Arrow files in `folder`."""

    folder: Path
    stats: CorpusStats

    def texts(self, most: int) -> list[str]:
        """At most so many passages to learn from, chosen and ordered by a hash."""
        rows = (
            text if held_out and self.stats.titles else passage_content(title, text)
            for title, text, held_out in _rows(self.folder / PASSAGES)
        )
        return _sample(rows, most)

    def searched(self, held_out_too: bool = True) -> Iterator[str]:
        """The passages as queries are asked of them: without their titles where these are the queries."""
        rows = (row for row in _rows(self.folder / PASSAGES) if held_out_too or not row[2])
        return (text if self.stats.titles else passage_content(title, text) for title, text, _ in rows)

    def held_out(self) -> set[bytes]:
        """The digests of the passages that are not learnt from, as they are searched."""
        rows = (row for row in _rows(self.folder / PASSAGES) if row[2])
        return {digest(text if self.stats.titles else passage_content(title, text)) for title, text, _ in rows}

    def queries(self, held_out: bool) -> list[tuple[str, str]]:
        """Queries with their passages, to learn from or to measure by."""
        return [(query, passage) for query, passage, side in _rows(self.folder / QUERIES) if side == held_out]


def prepare(dataset: Dataset, round_: Round, folder: Path, learns_queries: bool = True) -> Corpus | None:
    """Write down the passages and queries that there are; None without passages.

    A student that does not learn from queries is measured by all that were written.
    """
    size = dataset.corpus_size()
    if not size.passages:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    sides = _write_passages(dataset, folder, round_.seed, min(max(ENOUGH / size.documents, SHARES[0]), SHARES[1]))
    queries = [
        (query, passage, sides[digest(passage)] or not learns_queries)
        for query, passage in dataset.queries(round_)
        if digest(passage) in sides
    ]
    short_texts = not queries and dataset.holds_short_texts()
    titles = not short_texts and sum(held_out for _, _, held_out in queries) < FEWEST
    if titles:
        queries = list(_titles(folder))
    with TableWriter(folder / QUERIES, QUERY_COLUMNS) as writer:
        for row in queries:
            writer.write(row)
    held_out = sum(held_out for _, _, held_out in queries)
    stats = CorpusStats(size.passages, len(queries), held_out, titles, short_texts)
    (folder / STATS).write_text(json.dumps(asdict(stats)))  # last: its existence says that the others are complete
    return Corpus(folder, stats)


def prepared(folder: Path) -> Corpus | None:
    """What an earlier `prepare` left in `folder`; None when it didn't come to its end."""
    try:
        return Corpus(folder, CorpusStats(**json.loads((folder / STATS).read_text())))
    except (OSError, ValueError):
        return None


def _write_passages(dataset: Dataset, folder: Path, seed: int, share: float) -> dict[bytes, bool]:
    """Of each passage's digest, whether it is held out."""
    sides = dict[bytes, bool]()
    with TableWriter(folder / PASSAGES, PASSAGE_COLUMNS) as writer:
        for passage in dataset.passages():
            held_out = in_dev(passage.document, seed, share)
            sides[digest(passage.content)] = held_out
            writer.write((passage.title, passage.text, held_out))
    return sides


def _titles(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """Each title that may be a query, and the first passage under it, which doesn't repeat it."""
    seen = set[bytes]()
    for title, text, held_out in _rows(folder / PASSAGES):
        key, query = digest(title), title.strip(" .")
        if key not in seen and len(query) >= SHORTEST_TITLE and query.casefold() not in text.casefold():
            yield query, text, held_out
        seen.add(key)


def _sample(texts: Iterable[str], most: int) -> list[str]:
    by_hash = {digest(text): text for text in texts}
    return [by_hash[key] for key in heapq.nsmallest(most, by_hash)]


def _rows(file: Path) -> Iterator[Any]:
    return (row for portion in portions(file) for row in portion)
