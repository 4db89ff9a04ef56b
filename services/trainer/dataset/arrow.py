"""Arrow files on disk: written in portions and read memory-mapped, so that ten million rows need no memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

PORTION = 10_000


class TableWriter:
    """Collects rows and writes them to an Arrow stream file in record batches. Use it in a `with`."""

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._schema, self._buffer = schema, list[tuple[Any, ...]]()
        self._sink = pa.OSFile(str(file), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)
        self.rows = 0

    def write(self, row: tuple[Any, ...]) -> None:
        """Add one row, its values in the schema's order."""
        self._buffer.append(row)
        self.rows += 1
        if len(self._buffer) == PORTION:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            columns = dict(zip(self._schema.names, zip(*self._buffer, strict=True), strict=True))
            self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
            self._buffer.clear()

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        self._sink.close()


def read_table(file: Path) -> pa.Table:
    """The whole file, memory-mapped."""
    with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
        return reader.read_all()


def portions(file: Path) -> Iterator[list[tuple[Any, ...]]]:
    """The file's rows in portions of at most `PORTION`."""
    for batch in read_table(file).to_batches():
        yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
