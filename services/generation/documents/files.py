"""Files and folders as documents: which there are, and what each kind holds."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from services.generation.documents import markup
from services.generation.documents.texts import Text, check_text, from_row
from shared import tables
from shared.documents import MAX_DOCUMENT_CHARS
from shared.errors import Fatal, first_line
from shared.tables import BadRow

WHOLE: dict[str, Callable[[Path, str | None], tuple[str, str]]] = {
    ".txt": markup.read_plain,
    ".md": markup.read_plain,
    ".markdown": markup.read_plain,
    ".html": markup.read_html,
    ".htm": markup.read_html,
    ".pdf": markup.read_pdf,
    ".docx": markup.read_docx,
}
"""Kinds of which a file is one document: its title and text."""
WITH_HEADINGS = (".md", ".markdown", ".html", ".htm", ".docx")
TABLES = tuple(kind for kind in tables.FORMATS if kind != ".txt")
"""Kinds of which each row is one."""
KINDS = (*WHOLE, *TABLES)


class File(NamedTuple):
    """A file to read. Its name is what the dataset calls it, the same wherever the command is run."""

    path: Path
    name: str


def find_files(arguments: Sequence[Path]) -> tuple[list[File], Counter[str]]:
    """The files that are named or lie in named folders, by name, and how many others are passed over, by suffix.

    Hidden files and folders are passed over too. Raises `Fatal` for what is not there, and if no file is left.
    """
    files, others = list[File](), Counter[str]()
    for argument in arguments:
        path = argument.expanduser().resolve()
        if path.is_file():
            if kind_of(path) not in KINDS:
                raise Fatal(f"{argument}: can't be read as documents; a file must end in {', '.join(KINDS)}")
            files.append(File(path, f"{path.parent.name}/{path.name}"))
        elif path.is_dir():
            for one in _walk(path):
                if kind_of(one) in KINDS:
                    files.append(File(one, one.relative_to(path.parent).as_posix()))
                else:
                    others[one.suffix.lower() or "no suffix"] += 1
        else:
            raise Fatal(f"there is no file or folder {str(argument)!r}")
    if not files:
        passed = f" ({others.total()} files of other kinds are there)" if others else ""
        raise Fatal(f"{', '.join(map(str, arguments))}: holds no document{passed}; read are {', '.join(KINDS)}")
    return sorted(set(files), key=lambda file: file.name), others


def read_texts(file: File, column: str | None, encoding: str | None) -> Iterator[tuple[str, Text | BadRow]]:
    """The documents of a file, or what is wrong with one, each with its place. Raises `Fatal` for the file itself."""
    kind = kind_of(file.path)
    if kind in TABLES:
        for number, row in tables.read(file.path):
            place = f"{file.name}, {tables.place(file.path, number)}"
            try:
                yield place, from_row(row, column, file.name)
            except BadRow as error:
                yield place, error
        return
    try:
        if kind in (".txt", ".md", ".markdown") and (size := file.path.stat().st_size) > 4 * MAX_DOCUMENT_CHARS:
            raise BadRow(f"has {size} bytes, and a document may have {MAX_DOCUMENT_CHARS} characters: split it")
        title, text = WHOLE[kind](file.path, encoding)
        yield file.name, Text(check_text(text), file.name, title, "", file.name, kind in WITH_HEADINGS)
    except BadRow as error:
        yield file.name, error
    except OSError as error:
        yield file.name, BadRow(f"can't be read: {error.strerror or first_line(error)}")


def kind_of(path: Path) -> str:
    """The format, as the name's end; a compressed table's is the one before `.gz`."""
    suffix, *before = [part.lower() for part in reversed(path.suffixes)] or [""]
    return before[0] if suffix == ".gz" and before and before[0] in TABLES else suffix


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))
