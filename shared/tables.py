"""Tables in files, as people have them: text, CSV, TSV, JSON, JSON Lines and Parquet, read in one way everywhere."""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from shared.errors import Fatal, first_line

FORMATS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
"""All but Parquet may be compressed, as in `.csv.gz`."""
TEXT = "text"
"""The column of a file without columns: lines of text, JSON strings."""
PORTION = 10_000
SAMPLED = 100
"""Rows that show which columns have texts."""
DELIMITERS, NO_DELIMITER = ",;\t|", "\x1f"
EXCEL_DELIMITER = re.compile(r'"?sep=(.)"?\s*$')
LINE_CONTROLS = re.compile("[\t\v\f\x1c-\x1f\x85\u2028\u2029]")

Row = Mapping[str, Any]


class BadRow(ValueError):
    """A row that can't be used. The message names the column, and what is wrong."""


def read(file: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """A file's rows, or what is wrong with one, each with its number as `place` takes it. Raises `Fatal`.

    The format follows from the name's end; without one, each line is a text. Encodings are UTF-8 and, with a byte order
    mark, UTF-16. Of a CSV or TSV file the first line names the columns and shows the delimiter, unless a line such as
    Excel's `sep=;` does before. In a .tsv with tabs, quotes are characters like any other. Rows without any value are
    passed over.
    """
    kind = _kind(file)
    try:
        yield from READERS[kind](file)
    except UnicodeDecodeError as error:
        raise Fatal(f"{file}: is not UTF-8 ({error.reason}): save it as UTF-8, in Excel as 'CSV UTF-8'") from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        problem = getattr(error, "strerror", None) or first_line(error)
        raise Fatal(f"{file}: can't be read: {problem}") from None


def columns(file: Path, usual: Sequence[str]) -> list[str]:
    """A table's columns: the `usual` ones in their order, then those with most words. Raises `Fatal`."""
    words: Counter[str] = Counter()
    for _, row in islice(read(file), SAMPLED):
        for name, value in {} if isinstance(row, BadRow) else row.items():
            words[str(name)] += len(value.split()) if isinstance(value, str) else 0
    ranks = {fold(name): rank for rank, name in enumerate(usual)}
    names = [name for name, _ in words.most_common()]
    return sorted(names, key=lambda name: ranks.get(fold(name), len(ranks)))


def place(file: Path, number: int) -> str:
    """Where a row is, for a person: `line 7`, or `row 7` of what has no lines of its own."""
    return f"row {number}" if _kind(file) in (".json", ".parquet") else f"line {number}"


@lru_cache(1000)
def fold(name: str) -> str:
    """What column names are compared by: letters and digits without case."""
    return re.sub(r"[\W_]+", "", name.casefold()) or name


def by_folded_name(row: Row) -> dict[str, Any]:
    """The values that are there, by their columns' folded names; of two columns of one name, the first."""
    return {fold(str(name)): value for name, value in [*row.items()][::-1] if not _is_empty(value)}


def find(values: Row, names: Iterable[str]) -> Any:
    """Of values by folded name, that of the first of these columns which has one; None if none has."""
    return next((values[key] for name in names if (key := fold(name)) in values), None)


def missing(row: Row, names: Iterable[str], option: str) -> BadRow:
    """The error of a row for which `find` gave None; `option` says how to name a column."""
    first, *others = names
    present = {fold(str(name)) for name in row}
    if any(fold(name) in present for name in (first, *others)):
        return BadRow(f"{first} is empty")
    nor = f" (nor {', '.join(others)})" if others else ""
    columns = ", ".join(repr(str(name)[:40]) for name in list(row)[:20])
    return BadRow(f"has no {first}{nor}; its columns are {columns}; {option} says which is meant")


def text_of(value: Any, column: str) -> str:
    """A value as one line of text: what is not a line break but acts as one becomes a space. Raises `BadRow`."""
    if not isinstance(value, str):
        raise BadRow(f"{column}: {str(value)[:40]!r} is no text")
    return LINE_CONTROLS.sub(" ", value).strip()


def _is_empty(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _kind(file: Path) -> str:
    """The format, as its name's end."""
    suffix, *before = [part.lower() for part in reversed(file.suffixes)] or [".txt"]
    is_compressed = suffix == ".gz"
    kind = (before[0] if before else ".txt") if is_compressed else suffix
    if kind not in FORMATS or (is_compressed and kind == ".parquet"):
        hint = "; save a table as CSV" if kind.startswith((".xls", ".ods")) else ""
        raise Fatal(f"{file}: a file must end in {', '.join(FORMATS)}, or in .gz after one of the first six{hint}")
    return kind


def _open(file: Path, newline: str | None) -> TextIO:
    binary: Any = gzip.GzipFile(file) if file.suffix.lower() == ".gz" else file.open("rb")
    is_utf16 = binary.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return io.TextIOWrapper(binary, "utf-16" if is_utf16 else "utf-8-sig", newline=newline)


def _texts(file: Path) -> Iterator[tuple[int, Row]]:
    with _open(file, newline=None) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, {TEXT: line.strip()}


def _delimited(file: Path) -> Iterator[tuple[int, Row | BadRow]]:
    with _open(file, newline="") as lines:
        before, head, delimiter = 0, lines.readline(), ""
        while head and (not head.strip() or EXCEL_DELIMITER.match(head)):
            delimiter = found.group(1) if (found := EXCEL_DELIMITER.match(head)) else delimiter
            before, head = before + 1, lines.readline()
        delimiter = delimiter or _delimiter(head)
        is_plain = _kind(file) == ".tsv" and delimiter in ("\t", NO_DELIMITER)
        options: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if is_plain else {}
        reader = csv.reader(chain([head], lines), delimiter=delimiter, **options)
        header = [name.strip() for name in next(reader, [])]
        number = before + reader.line_num + 1
        for fields in reader:
            if any(map(str.strip, fields)):
                yield number, _fields(header, fields)
            number = before + reader.line_num + 1  # a quoted field may span lines: a row is where it begins


def _delimiter(head: str) -> str:
    """What divides the first line into most fields; `csv.Sniffer` prefers a comma, however few there are."""
    counts = {one: len(next(csv.reader([head], delimiter=one), [])) for one in DELIMITERS}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] > 1 else NO_DELIMITER


def _fields(header: list[str], fields: list[str]) -> Row | BadRow:
    if any(map(str.strip, fields[len(header) :])):
        return BadRow(f"has {len(fields)} fields, the first line {len(header)}: quote a field with the delimiter in it")
    return {name: value for name, value in zip(header, fields, strict=False) if name}


def _json(file: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """JSON Lines, or one array, whatever the name says."""
    with _open(file, newline="\n") as lines:
        is_first = True
        for number, line in enumerate(lines, start=1):
            if is_first and line.lstrip().startswith("["):
                yield from _json_array(file, line + lines.read())
            elif line.strip():
                is_first = False
                yield number, json_row(line)


def _json_array(file: Path, text: str) -> Iterator[tuple[int, Row | BadRow]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Fatal(f"{file}: is not JSON: {error}") from None
    yield from enumerate(map(row_of, rows), start=1)


def json_row(line: str) -> Row | BadRow:
    """A line of JSON as a row."""
    try:
        return row_of(json.loads(line))
    except (ValueError, RecursionError) as error:
        return BadRow(f"is not JSON: {error}")


def row_of(value: Any) -> Row | BadRow:
    """A JSON value as a row: an object, or a text."""
    if isinstance(value, str):
        return {TEXT: value}
    return value if isinstance(value, dict) else BadRow("is not a JSON object")


def _parquet(file: Path) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise Fatal(f"{file}: needs the package pyarrow: .venv/bin/python -m pip install pyarrow") from None
    try:
        with parquet.ParquetFile(file) as opened:
            yield from enumerate((row for batch in opened.iter_batches(PORTION) for row in batch.to_pylist()), start=1)
    except pyarrow.ArrowException as error:
        raise Fatal(f"{file}: can't be read: {first_line(error)}") from None


READERS = {
    ".txt": _texts,
    ".csv": _delimited,
    ".tsv": _delimited,
    ".json": _json,
    ".jsonl": _json,
    ".ndjson": _json,
    ".parquet": _parquet,
}
