"""A request's body as documents, while it comes: JSON Lines, or one JSON list. It is never held whole."""

import codecs
import json
from collections.abc import Iterator

from shared.documents import MAX_DOCUMENT_CHARS
from shared.tables import BadRow, Row, row_of

MAX_ITEM_CHARS = 3 * MAX_DOCUMENT_CHARS
"""Of one line or item, with its escapes."""


class BadBody(ValueError):
    """The body can't be read on from here."""


class Items:
    """Takes bytes, gives rows with their numbers: of lines, or of items in a list, from 1."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._parts: list[str] = []
        self._held = 0
        self._number, self._read_again_at = 0, 0
        self._is_list: bool | None = None
        self._is_closed = False

    def feed(self, data: bytes, is_last: bool = False) -> Iterator[tuple[int, Row | BadRow]]:
        """The rows that are whole now. Raises `BadBody`."""
        try:
            text = self._decoder.decode(data, is_last)
        except UnicodeDecodeError as error:
            raise BadBody(f"{self.place(self._number + 1)}: is not UTF-8 ({error.reason})") from None
        self._parts.append(text)
        self._held += len(text)
        if self._is_list is None:
            self._is_list = self._begins_a_list()
        yield from self._items(is_last) if self._is_list else self._lines(text, is_last)
        if self._held > MAX_ITEM_CHARS:
            raise BadBody(f"{self.place(self._number + 1)}: has more than {MAX_ITEM_CHARS} characters")

    def place(self, number: int) -> str:
        """Where a row is, for a person."""
        return f"{'item' if self._is_list else 'line'} {number}"

    def _begins_a_list(self) -> bool | None:
        start = "".join(self._parts).lstrip()
        return start.startswith("[") if start else None

    def _take(self) -> str:
        text, self._parts, self._held = "".join(self._parts), [], 0
        return text

    def _keep(self, text: str) -> None:
        self._parts, self._held = [text], len(text)

    def _lines(self, text: str, is_last: bool) -> Iterator[tuple[int, Row | BadRow]]:
        if "\n" not in text and not is_last:
            return
        *lines, rest = self._take().split("\n")
        self._keep("" if is_last else rest)
        for line in [*lines, rest] if is_last else lines:
            self._number += 1
            if line.strip():
                try:
                    yield self._number, row_of(json.loads(line))
                except (ValueError, RecursionError) as error:
                    yield self._number, BadRow(f"is not JSON: {error}")

    def _items(self, is_last: bool) -> Iterator[tuple[int, Row | BadRow]]:
        if self._held < self._read_again_at and not is_last:
            return  # an item that is not whole is read again when twice as much of it is there
        text, start, decoder = self._take(), 0, json.JSONDecoder()
        while True:
            start = _skip(text, start, "[," if self._number == 0 else ",")
            if self._is_closed and start < len(text):
                raise BadBody("something comes after the list")
            if start == len(text) or self._is_closed:
                break
            if text[start] == "]":
                self._is_closed, start = True, start + 1
                continue
            try:
                value, start = decoder.raw_decode(text, start)
            except (ValueError, RecursionError) as error:
                if is_last:
                    raise BadBody(f"{self.place(self._number + 1)}: is not JSON: {error}") from None
                break
            self._number += 1
            yield self._number, row_of(value)
        self._keep(text[start:])
        self._read_again_at = 2 * self._held
        if is_last and not self._is_closed:
            raise BadBody("the list doesn't end")


def _skip(text: str, start: int, between: str) -> int:
    """The place of the next item: behind white space and what stands between items."""
    while start < len(text) and (text[start].isspace() or text[start] in between):
        start += 1
    return start
