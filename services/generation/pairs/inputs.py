"""Which part of a table's row is the sentence, or the passage, that pairs are written for."""

from shared.pairs import check_sentence
from shared.tables import TEXT, BadRow, Row, by_folded_name, find, missing, text_of

COLUMNS = ("sentence1", "text_a", "sentence", TEXT)
"""Which columns hold first sentences; text_a is the original's."""
PASSAGE_COLUMNS = (TEXT, "passage", "content", "sentence2")
"""Which columns hold passages."""
TITLE = "title"
"""The column whose text stands before a passage's."""


def columns_of(column: str | None, are_passages: bool) -> tuple[str, ...]:
    """The columns of which a row's first one counts; `column` is the one that a person named."""
    return (column,) if column else PASSAGE_COLUMNS if are_passages else COLUMNS


def given_of(row: Row | BadRow, column: str | None, are_passages: bool) -> str:
    """A row's first sentence or passage. Raises ValueError."""
    if isinstance(row, BadRow):
        raise row
    names = columns_of(column, are_passages)
    by_name = by_folded_name(row)
    if (value := find(by_name, names)) is None:
        raise missing(row, names, "--column NAME")
    text = text_of(value, names[0])
    title = find(by_name, (TITLE,)) if are_passages else None
    return check_sentence(f"{text_of(title, TITLE)} {text}".strip() if title else text)
