"""A document before it is cut: from a row of a table or of a request's body."""

import re
from dataclasses import dataclass
from typing import Any

from shared.documents import MAX_DOCUMENT_CHARS
from shared.tables import TEXT, BadRow, Row, by_folded_name, find, fold, missing

COLUMNS = (TEXT, "body", "content", "passage", "document", "abstract")
"""Which columns hold a document's text; `text` is BEIR's."""
MAX_TITLE_CHARS, MAX_FIELD_CHARS = 200, 500
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Text:
    """One document. Without an `id` of the user's, its content hash becomes it."""

    text: str
    id: str = ""
    title: str = ""
    url: str = ""
    source: str = ""
    is_markdown: bool = False
    """Whether it has headings, as Markdown writes them."""


def from_row(row: Row | BadRow, column: str | None = None, source: str = "") -> Text:
    """The document of a row: the text is in `column`, else in the first of `COLUMNS` that it has. Raises `BadRow`."""
    if isinstance(row, BadRow):
        raise row
    values, names = by_folded_name(row), COLUMNS if column is None else (column,)
    title = one_line(_field(values, ("title",), MAX_DOCUMENT_CHARS))
    text = find(values, names)
    if text is None and column is None and {fold(str(name)) for name in row} & {*names}:
        text, title = title or None, ""  # a document may be a title alone
    if text is None:
        raise missing(row, names, "--column NAME" if source else "the field `text`")
    if not isinstance(text, str):
        raise BadRow(f"{names[0]}: {str(text)[:40]!r} is no text")
    return Text(
        check_text(text),
        id=_field(values, ("_id", "id"), MAX_FIELD_CHARS),
        title=title[:MAX_TITLE_CHARS],
        url=_field(values, ("url",), MAX_FIELD_CHARS * 4),
        source=source,
    )


def check_text(text: str) -> str:
    """`text` with control characters as spaces, so that places in it stay the same. Raises `BadRow`."""
    if len(text) > MAX_DOCUMENT_CHARS:
        raise BadRow(f"has {len(text)} characters, and a document may have {MAX_DOCUMENT_CHARS}: split it")
    if not any(map(str.isalnum, text)):
        raise BadRow("text is empty: it has no letter and no digit")
    return CONTROLS.sub(" ", text)


def one_line(text: str) -> str:
    """White space folded, control characters gone."""
    return " ".join(CONTROLS.sub(" ", text).split())


def _field(values: dict[str, Any], names: tuple[str, ...], most: int) -> str:
    value = find(values, names)
    if value is None:
        return ""
    if not isinstance(value, str | int):
        raise BadRow(f"{names[-1]}: {str(value)[:40]!r} is no text")
    text = one_line(str(value))
    if len(text) > most:
        raise BadRow(f"{names[-1]} has {len(text)} characters, and may have {most}")
    return text
