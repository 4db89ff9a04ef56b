"""The lines of a batch: texts as people have them and OpenAI's batch file in, the results of both out."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import orjson
from pydantic import ValidationError

from services.embedding.api.openai import EmbeddingsBody
from services.embedding.api.requests import StrictBody
from services.embedding.api.serialization import base64_vectors, json_array
from services.embedding.serving.batch_store import Batch, Records
from services.embedding.serving.quantise import NumberType, quantise
from shared.errors import first_line, validation_message

Form = Literal["lines", "openai"]
Results = Iterator[tuple[str | None, Records]]
READ_BYTES = 1024 * 1024
LINES_AT_ONCE, ROWS_AT_ONCE = 64, 1024
SAME_IN_ALL = ("model", "dimensions", "encoding_format", "prompt_name", "input_type")


class BadLine(ValueError):
    """A line that can't be read. The message says which, and what is wrong."""


class OpenAILine(StrictBody):
    """A line of OpenAI's batch file."""

    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/embeddings"]
    body: EmbeddingsBody


class LineReader:
    """Takes a file in pieces, checks each line, and writes id and texts of each to `lines.jsonl` in `folder`."""

    def __init__(self, folder: Path, max_line_bytes: int, max_texts: int) -> None:
        self.form: Form | None = None
        self.lines = self.texts = 0
        self.fields: dict[str, Any] = {}  # what OpenAI's lines ask for, all the same
        self._max_line_bytes, self._max_texts = max_line_bytes, max_texts
        self._rest, self._number = b"", 0
        self._file = (folder / "lines.jsonl").open("wb")

    def feed(self, data: bytes) -> None:
        """The next piece. Raises `BadLine` and OSError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._read(line)
        self._check_length(self._rest, self._number + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def finish(self) -> None:
        """The file is whole. Raises `BadLine` and OSError."""
        self._read(self._rest)
        self._file.flush()
        if not self.lines:
            raise BadLine("the file holds no line")

    def _read(self, line: bytes) -> None:
        self._number += 1
        line = line.removeprefix(b"\xef\xbb\xbf") if self._number == 1 else line
        self._check_length(line, self._number)
        if not line.strip():
            return
        try:
            form, id_, texts = self._parse(orjson.loads(line))
            if self.form not in (None, form):
                raise ValueError("the lines before are of another form")
            if not texts or not all(texts):
                raise ValueError("holds no text")
            if len(texts) > self._max_texts:
                raise ValueError(f"holds {len(texts)} texts; a line may have {self._max_texts}")
        except ValidationError as error:
            one = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, one["loc"]))
            raise BadLine(f"line {self._number}: {field}: {validation_message(one)}") from None
        except (ValueError, RecursionError) as error:
            raise BadLine(f"line {self._number}: {first_line(error)}") from None
        self.form = form
        self.lines, self.texts = self.lines + 1, self.texts + len(texts)
        self._file.write(orjson.dumps([id_, texts], option=orjson.OPT_APPEND_NEWLINE))

    def _check_length(self, line: bytes, number: int) -> None:
        if len(line) > self._max_line_bytes:
            raise BadLine(f"line {number}: is longer than {self._max_line_bytes} bytes")

    def _parse(self, row: Any) -> tuple[Form, str | None, list[str]]:
        """Raises ValueError."""
        if isinstance(row, str):
            return "lines", None, [row]
        if not isinstance(row, dict):
            raise ValueError('must be a text, {"text": ...} or a line of OpenAI\'s batch file')
        if "body" in row:
            line = OpenAILine.model_validate(row)
            self._check_same(line.body)
            if isinstance(line.body.input[0], list):
                raise ValueError("body.input: token ids are not taken here: send text")
            return "openai", line.custom_id, line.body.input
        id_ = row.get("id", row.get("_id"))
        if unknown := row.keys() - {"id", "_id", "text"}:
            raise ValueError(f"{min(unknown)}: unknown field; there is text and id")
        if not isinstance(row.get("text"), str) or not isinstance(id_, str | int | None):
            raise ValueError("text must be a text, and id a text or a number, if there is one")
        return "lines", None if id_ is None else str(id_), [row["text"]]

    def _check_same(self, body: EmbeddingsBody) -> None:
        """All lines are read in one way. Raises ValueError."""
        others = body.model_fields_set - {*SAME_IN_ALL, "input", "user"}
        if asked := [name for name in sorted(others) if getattr(body, name) is not None]:
            raise ValueError(f"body.{asked[0]}: can't be asked for in a batch")
        fields = {name: getattr(body, name) for name in SAME_IN_ALL}
        if self.form is None:
            self.fields = fields
        for name, value in fields.items():
            if value != self.fields.get(name, value):
                raise ValueError(f"body.{name}: must be the same in all lines")


def json_lines(batch: Batch, results: Results, kind: NumberType) -> Iterator[bytes]:
    """The result, a line for each of the file, in its order: OpenAI's form for OpenAI's, else id and `embedding`."""
    lines, option = list[bytes](), orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    for number, (id_, records) in enumerate(results, start=1):
        vectors = quantise(kind, np.ascontiguousarray(records["vector"]), batch.int8_range)
        if batch.form == "openai":
            lines.append(_openai_line(batch, number, id_, vectors, int(np.abs(records["tokens"]).sum())))
        else:
            row = {"line": number} if id_ is None else {"line": number, "id": id_}
            lines.append(orjson.dumps(row | {"embedding": vectors[0]}, option=option))
        if len(lines) == LINES_AT_ONCE:
            yield b"".join(lines)
            lines.clear()
    yield b"".join(lines)


def _openai_line(batch: Batch, number: int, id_: str | None, vectors: Any, tokens: int) -> bytes:
    rows = base64_vectors(vectors) if batch.base64 else [
        orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY) for vector in vectors
    ]  # fmt: skip
    items = [b'{"object":"embedding","index":%d,"embedding":%b}' % pair for pair in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = b'{"object":"list","data":%b,%b' % (
        json_array(items), orjson.dumps({"model": batch.version, "usage": usage})[1:],
    )  # fmt: skip
    request = f"{batch.id}-{number}"
    head = json.dumps({"id": request, "custom_id": id_})[:-1].encode()
    response = b'"response":{"status_code":200,"request_id":"%b","body":%b}' % (request.encode(), body)
    return b'%b,%b,"error":null}\n' % (head, response)


def parquet(batch: Batch, results: Results, kind: NumberType) -> Iterator[bytes]:
    """The result as Parquet, a row for each text: `line` from 1, `id`, `index` in the line, `embedding`."""
    import pyarrow
    from pyarrow import parquet as files

    sample = quantise(kind, np.zeros((1, batch.dimensions), np.float32), batch.int8_range)
    embedding = pyarrow.list_(pyarrow.from_numpy_dtype(sample.dtype), sample.shape[1])
    schema = pyarrow.schema(
        {"line": pyarrow.int64(), "id": pyarrow.string(), "index": pyarrow.int32(), "embedding": embedding}
    )
    sink = _Sink()
    rows: list[tuple[int, str | None, int, Any]] = []

    def table() -> Any:
        *columns, vectors = zip(*rows, strict=True)
        numbers = quantise(kind, np.stack(vectors), batch.int8_range)
        values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(numbers.ravel()), numbers.shape[1])
        return pyarrow.table([*(pyarrow.array(column) for column in columns), values], schema=schema)

    with files.ParquetWriter(sink, schema, compression="zstd", use_dictionary=False) as writer:
        for number, (id_, records) in enumerate(results, start=1):
            rows += [(number, id_, index, record["vector"]) for index, record in enumerate(records)]
            if len(rows) >= ROWS_AT_ONCE:
                writer.write_table(table())
                rows.clear()
                yield sink.take()
        if rows:
            writer.write_table(table())
    yield sink.take()


class _Sink(io.RawIOBase):
    """What is written, until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._size += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        """What was written since it was last taken."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken
