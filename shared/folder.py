"""A folder that a cluster writes into: on a disk that all machines share, or an object store that pyarrow knows.

A file appears whole or not at all. pyarrow is imported: a service asks for this module only where it has that.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs, parquet

from shared.errors import Fatal


class Folder:
    """A folder by its path or URI. Can be pickled; methods raise `OSError`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri if "://" in uri else str(Path(uri).expanduser().resolve())
        self._files, self._path = fs.FileSystem.from_uri(self.uri)
        self._is_local = isinstance(self._files, fs.LocalFileSystem)

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self.uri,)

    def place(self, name: str) -> str:
        """A file's path or URI, for a person."""
        return f"{self.uri.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is none."""
        try:
            with self._files.open_input_stream(self._full(name)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file in one step; on a local disk, durably."""
        target = self._full(name)
        self._files.create_dir(target.rpartition("/")[0], recursive=True)
        if not self._is_local:  # an object appears when it is closed
            with self._files.open_output_stream(target) as stream:
                stream.write(content)
            return
        folder, _, last = target.rpartition("/")
        temporary = Path(folder, f".{last}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_file(self._full(name))

    def names(self, folder: str) -> list[str]:
        """The files right in a folder of this one, sorted; [] if there is none."""
        selector = fs.FileSelector(self._full(folder), allow_not_found=True)
        files = [info.base_name for info in self._files.get_file_info(selector) if info.type == fs.FileType.File]
        return sorted(name for name in files if not name.startswith("."))

    def remove(self, folder: str) -> None:
        """Remove a folder of this one with all that is in it; nothing happens if there is none."""
        if self._files.get_file_info(self._full(folder)).type == fs.FileType.Directory:
            self._files.delete_dir(self._full(folder))

    def _full(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"


def write_table(folder: Folder, name: str, table: Any) -> None:
    """A pyarrow table as one Parquet file."""
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    folder.write(name, sink.getvalue().to_pybytes())


def read_column(folder: Folder, name: str, column: str) -> list[Any] | None:
    """A column of a Parquet file that `write_table` wrote; None if the file is missing or torn."""
    content = folder.read(name)
    try:
        return None if content is None else list(parquet.read_table(pa.BufferReader(content))[column].to_pylist())
    except pa.ArrowException:
        return None


DEATHS = 3
"""Processes that may die of a file before nobody tries it again."""


@contextlib.contextmanager
def counted(folder: Folder, place: str, prefix: str, file: str) -> Iterator[None]:
    """While a file is worked on, a mark lies in `place` that only a death leaves behind.

    Raises `Fatal` where there are `DEATHS` marks with this prefix, which names the file and the run.
    """
    if sum(name.startswith(prefix) for name in folder.names(place)) >= DEATHS:
        problem = f"{DEATHS} processes died of what {folder.place(file)} holds"
        raise Fatal(f"--cluster: {problem}: look at the machines' memory and Ray's logs; the same command goes on")
    mark = f"{place}/{prefix}{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):  # where the disk is full, others may read and so write the file nevertheless
        folder.write(mark, b"")
    try:
        yield
    finally:
        folder.delete(mark)


class Lines:
    """Numbered Parquet files of one column of strings, each of `size` rows but the last."""

    def __init__(self, folder: Folder, name: str, size: int) -> None:
        self.folder, self._name, self.size = folder, name, size

    def file(self, shard: int) -> str:
        """A shard's name in the folder."""
        return f"{self._name}/{shard:06}.parquet"

    def write(self, shard: int, lines: Sequence[str]) -> None:
        """Keep a shard."""
        write_table(self.folder, self.file(shard), pa.table({"line": pa.array(lines, pa.string())}))

    def read(self, shard: int) -> list[str] | None:
        """A shard's rows; None if it is missing or torn."""
        return read_column(self.folder, self.file(shard), "line")

    def present(self) -> set[int]:
        """Which shards there are."""
        return {int(name.partition(".")[0]) for name in self.folder.names(self._name)}

    def between(self, first: int, last: int) -> Iterator[str]:
        """Rows `first` to `last - 1`. Raises `OSError` for a shard that is gone."""
        for shard in range(first // self.size, -(-last // self.size)):
            lines, start = self.read(shard), shard * self.size
            if lines is None:
                raise FileNotFoundError(f"{self.folder.place(self.file(shard))} is missing or torn")
            yield from lines[max(0, first - start) : last - start]
