"""Documents on their way in: cut, near duplicates left out, counted, and put into the stream."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from services.generation.documents.cutting import Cutter
from services.generation.documents.near_duplicates import SeenTexts
from services.generation.documents.texts import Text
from services.generation.pairs.languages import SAMPLE, texts_warning
from shared.documents import Document
from shared.stream import Append, PairStream
from shared.tables import BadRow

FIRST = 5
PAUSE_S = 0.5
BUCKET = 16
"""Tokens: how finely lengths of passages are counted."""


class BacklogFull(Exception):
    """The trainer has taken nothing for a while. What was put in before stays; the same documents may come again."""


@dataclass
class Counts:
    """What became of the documents and passages by now."""

    documents: int = 0
    unchanged: int = 0
    """Documents that came before like this, within seven days."""
    passages: int = 0
    duplicates: int = 0
    """Passages that are also in another place here; the dataset keeps one of them."""
    near_duplicates: int = 0
    """Passages that were left out, because nearly the same came before."""
    longer_than_window: int = 0
    bad: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Of passages, in tokens with their titles."""
    first: list[dict[str, str]] = field(default_factory=list)
    sample: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """For a person or a program."""
        names = ("documents", "unchanged", "passages", "duplicates", "near_duplicates", "longer_than_window", "bad")
        return {name: getattr(self, name) for name in names} | {
            "tokens": _spread(self.lengths),
            "histogram": _histogram(self.lengths),
            "first": self.first,
        }


class Intake:
    """Takes documents one after the other. An id stands for one document in it."""

    def __init__(self, cutter: Cutter, window: int) -> None:
        self.counts = Counts()
        self._cutter, self._window = cutter, window
        self._near, self._exact, self._ids = SeenTexts(), set[int](), dict[int, int]()

    def take(self, text: Text) -> Document | None:
        """The document as the dataset should have it; None if nothing of it is left. Raises `BadRow`."""
        cut = self._cutter.cut(text)
        if cut is None:
            raise BadRow("text is empty: it has no letter and no digit")
        document, counts = cut.document, self.counts
        if self._ids.setdefault(hash(document.id), hash(document.digest)) != hash(document.digest):
            raise BadRow(f"the id {document.id[:80]!r} has come before, with another text: ids must differ")
        kept = []
        for passage, tokens in zip(document.passages, cut.tokens, strict=True):
            content = passage.content
            is_exact, is_near = hash(content) in self._exact, self._near.add(content)
            self._exact.add(hash(content))
            counts.duplicates += is_exact
            counts.near_duplicates += is_near and not is_exact
            if is_exact or not is_near:
                kept.append(passage)
                counts.lengths[tokens] += 1
                counts.longer_than_window += tokens > self._window
                if len(counts.first) < FIRST:
                    counts.first.append({"document": document.id, "title": passage.title, "text": passage.text})
                if len(counts.sample) < SAMPLE:
                    counts.sample.append(passage.text)
        counts.documents += 1
        counts.passages += len(kept)
        return document.model_copy(update={"passages": kept}) if kept else None

    def warning(self, languages: frozenset[str], teacher: str) -> str | None:
        """One line if the passages are in a language that the teacher isn't known to write."""
        return texts_warning(self.counts.sample, languages, teacher) if self.counts.sample else None


async def offer(
    stream: PairStream, documents: Sequence[Document], counts: Counts, patience_s: float | None, on_wait: Any = None
) -> None:
    """Put documents into the stream, waiting for room; for ever without `patience_s`.

    Raises `BacklogFull` after so many seconds in which the trainer took nothing, and RedisError or OSError.
    """
    waiting, waited_s = list(documents), 0.0
    while True:
        answers = await stream.append_documents(waiting)
        counts.unchanged += answers.count(Append.DUPLICATE)
        left = [one for one, answer in zip(waiting, answers, strict=True) if answer is Append.FULL]
        if not left:
            return
        waited_s = waited_s if len(left) == len(waiting) else 0.0
        if patience_s is not None and waited_s >= patience_s:
            raise BacklogFull
        if on_wait is not None:
            on_wait()
        waiting, waited_s = left, waited_s + PAUSE_S
        await asyncio.sleep(PAUSE_S)


def _histogram(lengths: Counter[int]) -> dict[str, int]:
    """Counts of values up to each multiple of `BUCKET`, without empty ones."""
    counts: Counter[int] = Counter()
    for value, count in lengths.items():
        counts[-(-value // BUCKET) * BUCKET] += count
    return {str(edge): counts[edge] for edge in sorted(counts)}


def _spread(lengths: Counter[int]) -> dict[str, int]:
    """The least, median, 95th percentile and greatest of counted values."""
    if not lengths:
        return {}
    values = sorted(lengths)
    ranks = list(accumulate(lengths[value] for value in values))
    found = {}
    for name, share in (("min", 0.0), ("median", 0.5), ("p95", 0.95), ("max", 1.0)):
        found[name] = next(value for value, rank in zip(values, ranks, strict=True) if rank >= share * ranks[-1])
    return found
