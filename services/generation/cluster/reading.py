"""Inputs by Ray Data: JSON Lines, text and Parquet, one file or a folder of them, on any file system of pyarrow's."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from pyarrow import parquet
from ray.data import DataContext
from ray.data.datasource import FileBasedDatasource
from ray.exceptions import RayError

from services.generation.pairs.inputs import TITLE, columns_of, given_of
from shared.errors import Fatal, first_line
from shared.tables import TEXT, BadRow, Row, fold, json_row

ENDS = ("jsonl", "ndjson", "txt", "parquet", "jsonl.gz", "ndjson.gz", "txt.gz")
"""Names' ends of the files that are read."""
PORTION = 10_000
WHOLE_FILE = 0
"""Instead of a row's number: the file itself can't be read."""


@dataclass(frozen=True)
class GivenText:
    """A row: its file, its number from 1, and its sentence or passage; or what is wrong with it."""

    path: str
    number: int
    text: str | None
    problem: str | None


class GivenTexts(FileBasedDatasource):  # type: ignore[misc]
    """Rows of files as the fields of `GivenText`, in the order of the files' names, in portions."""

    def __init__(self, uri: str, column: str | None, are_passages: bool) -> None:
        super().__init__(uri, file_extensions=list(ENDS))
        self._column, self._are_passages = column, are_passages

    def _open_input_source(self, filesystem: Any, path: str, **open_args: Any) -> Any:
        if path.endswith(".parquet"):
            return filesystem.open_input_file(path)
        return super()._open_input_source(filesystem, path, **open_args)

    def _read_stream(self, f: Any, path: str) -> Iterator[Any]:
        portion: list[GivenText] = []
        for one in self._given_texts(f, path):
            portion.append(one)
            if len(portion) == PORTION:
                yield _table(portion)
                portion = []
        if portion:
            yield _table(portion)

    def _given_texts(self, f: Any, path: str) -> Iterator[GivenText]:
        rows = _parquet_rows(f, self._columns()) if path.endswith(".parquet") else _line_rows(f, path)
        try:
            for number, row in rows:
                try:
                    yield GivenText(path, number, given_of(row, self._column, self._are_passages), None)
                except ValueError as error:
                    yield GivenText(path, number, None, str(error))
        except UnicodeDecodeError as error:
            yield GivenText(path, WHOLE_FILE, None, f"is not UTF-8 ({error.reason}): save it as UTF-8")
        except pa.ArrowException as error:
            yield GivenText(path, WHOLE_FILE, None, f"can't be read: {first_line(error)}")

    def _columns(self) -> set[str]:
        return {fold(name) for name in (*columns_of(self._column, self._are_passages), TITLE)}


def _line_rows(f: Any, path: str) -> Iterator[tuple[int, Row | BadRow]]:
    is_text = path.removesuffix(".gz").endswith(".txt")
    lines = io.TextIOWrapper(io.BufferedReader(f), "utf-8-sig", newline=None if is_text else "\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, {TEXT: line.strip()} if is_text else json_row(line)


def _parquet_rows(f: Any, wanted: set[str]) -> Iterator[tuple[int, Row]]:
    """Rows with the columns that count; with all of them where none is there, so that the error can name them."""
    file = parquet.ParquetFile(f)
    columns = [name for name in file.schema_arrow.names if fold(name) in wanted]
    batches = file.iter_batches(PORTION, columns=columns or None)
    yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _table(portion: list[GivenText]) -> Any:
    columns = {name: [getattr(one, name) for one in portion] for name in ("path", "number", "text", "problem")}
    kinds = {"path": pa.string(), "number": pa.int64(), "text": pa.string(), "problem": pa.string()}
    return pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})


def read_given(uri: str, column: str | None, are_passages: bool) -> Iterator[GivenText]:
    """All rows in the order of files and lines, read ahead by Ray's tasks. Raises `Fatal`."""
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    try:
        rows = ray.data.read_datasource(GivenTexts(uri, column, are_passages))
    except (OSError, ValueError) as error:
        raise Fatal(f"--inputs: {uri}: {first_line(error)}; files must end in .{', .'.join(ENDS)}") from None
    try:
        for batch in rows.iter_batches(batch_size=PORTION, batch_format="pyarrow"):
            for row in batch.to_pylist():
                yield GivenText(**row)
    except RayError as error:
        raise Fatal(f"--inputs: {uri}: {first_line(error)}") from None
