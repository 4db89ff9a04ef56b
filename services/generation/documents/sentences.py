"""First sentences out of files: of a table's rows, of lines, of a whole document."""

import re
from collections.abc import Iterator
from pathlib import Path

from services.generation.documents.files import TABLES, File, kind_of, read_texts
from services.generation.pairs.inputs import given_of
from shared.tables import BadRow, Row, place, read

END = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+(?=[\"'“‘(]*[^\W_a-z])")
"""Between two sentences: punctuation, white space, and then no small letter."""
MARKUP = re.compile(r"^\s*(#{1,6}\s.*|```.*|[-*_]{3,}|\|.*)$", re.MULTILINE)
BULLET = re.compile(r"^\s*(?:[-*+>]|\d+[.)])\s+")
LEAST_WORDS, MOST_CHARS = 4, 400
"""Of a sentence of a document: shorter ones are headings and names, longer ones tables and lists."""


def sentences_in(file: File, column: str | None = None) -> Iterator[tuple[str, str | ValueError]]:
    """A table's first sentences, a text file's lines, a document's sentences; or what is wrong, each with its place.

    Raises `Fatal` for the file itself.
    """
    kind = kind_of(Path(file.name))
    if kind in TABLES or kind == ".txt":
        for number, row in read(file.path):
            yield f"{file.name}, {place(file.path, number)}", _or_error(row, column)
        return
    for at, text in read_texts(file, column, None):
        if isinstance(text, BadRow):
            yield at, text
        else:
            yield from ((at, sentence) for sentence in split(text.text))


def split(text: str) -> Iterator[str]:
    """The sentences of a document that can be a pair's; headings, code fences and tables are none."""
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*+]|\d+[.)])\s)", MARKUP.sub("\n", text)):
        for sentence in END.split(" ".join(BULLET.sub("", block).split())):
            if len(sentence.split()) >= LEAST_WORDS and len(sentence) <= MOST_CHARS:
                yield sentence


def _or_error(row: Row | BadRow, column: str | None) -> str | ValueError:
    try:
        return given_of(row, column, are_passages=False)
    except ValueError as error:
        return error
