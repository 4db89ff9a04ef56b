"""Files of vectors: JSON Lines, Parquet and NumPy's own. One appears whole or not at all."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson

from shared.errors import Fatal

Vectors = npt.NDArray[Any]
Write = Callable[[Sequence[str | None], Sequence[str], Vectors], None]
"""Appends ids, texts and vectors, as many of each."""


@contextlib.contextmanager
def create(file: Path, rows: int, sample: Vectors, has_ids: bool) -> Iterator[Write]:
    """Write `rows` vectors that are like the rows of `sample` into a new file, which replaces one of the same name.

    Without an error, all rows must have been written. Raises OSError.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with temporary.open("wb") as target:
            with WRITERS[file.suffix](target, rows, sample, has_ids) as write:
                yield write
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def check(file: Path) -> None:
    """Whether such a file can be written. Raises `Fatal`."""
    if file.suffix not in WRITERS:
        raise Fatal(f"--out: {file}: a file must end in {', '.join(WRITERS)}")
    if not file.resolve().parent.is_dir():
        raise Fatal(f"--out: there is no folder {file.parent}")
    if file.is_dir():
        raise Fatal(f"--out: {file} is a folder")
    if file.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise Fatal("--out: Parquet needs the package pyarrow: .venv/bin/python -m pip install pyarrow") from None


@contextlib.contextmanager
def _json_lines(target: BinaryIO, _rows: int, _sample: Vectors, has_ids: bool) -> Iterator[Write]:
    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE

    def write(ids: Sequence[str | None], texts: Sequence[str], vectors: Vectors) -> None:
        for id_, text, vector in zip(ids, texts, vectors, strict=True):
            row = {"id": id_} if has_ids else {}
            target.write(orjson.dumps(row | {"text": text, "embedding": vector}, option=option))

    yield write


@contextlib.contextmanager
def _numpy(target: BinaryIO, rows: int, sample: Vectors, _has_ids: bool) -> Iterator[Write]:
    header = {"descr": sample.dtype.str, "fortran_order": False, "shape": (rows, sample.shape[1])}
    np.lib.format.write_array_header_1_0(target, header)  # type: ignore[no-untyped-call]

    def write(_ids: Sequence[str | None], _texts: Sequence[str], vectors: Vectors) -> None:
        target.write(np.ascontiguousarray(vectors).tobytes())

    yield write


@contextlib.contextmanager
def _parquet(target: BinaryIO, _rows: int, sample: Vectors, has_ids: bool) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    embedding = pyarrow.list_(pyarrow.from_numpy_dtype(sample.dtype), sample.shape[1])
    columns = {"id": pyarrow.string()} if has_ids else {}
    schema = pyarrow.schema(columns | {"text": pyarrow.string(), "embedding": embedding})

    def write(ids: Sequence[str | None], texts: Sequence[str], vectors: Vectors) -> None:
        numbers = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
        values = [*([ids] if has_ids else []), texts, numbers]
        writer.write_table(pyarrow.table([pyarrow.array(value) for value in values], schema=schema))

    # Neither texts nor numbers repeat.
    with parquet.ParquetWriter(target, schema, compression="zstd", use_dictionary=False) as writer:
        yield write


WRITERS: dict[str, Callable[[BinaryIO, int, Vectors, bool], AbstractContextManager[Write]]] = {
    ".jsonl": _json_lines,
    ".npy": _numpy,
    ".parquet": _parquet,
}
