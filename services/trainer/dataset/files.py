"""Files of pairs, in and out, in portions: Parquet, JSON Lines, CSV and TSV, ours and other people's columns."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from pydantic import ValidationError

from shared.errors import Fatal
from shared.pairs import Pair, PairRecord, Provenance

PORTION = 10_000
COLUMNS = {
    "sentence1": ("sentence1", "text_a", "sentence_a", "sentence_A", "text1", "question1"),
    "sentence2": ("sentence2", "text_b", "sentence_b", "sentence_B", "text2", "question2"),
    "score": ("score", "label", "similarity_score", "similarity", "relatedness_score"),
}
"""What others call our columns; text_a, text_b and label are those of the original DINO's files."""
STRINGS = ("sentence1", "sentence2"), ("dataset", "task", "label", "job", "teacher")
SENTENCES, PROVENANCE = (dict.fromkeys(names, pa.string()) for names in STRINGS)
SCHEMA = pa.schema(SENTENCES | {"score": pa.float64()} | PROVENANCE | {"seed": pa.int64(), "collected": pa.float64()})

Row = Mapping[str, Any]


class BadRow(ValueError):
    """A row that is no pair. The message names the field and what it must be."""


def read(file: Path) -> Iterator[tuple[int, Row]]:
    """A file's rows with their line numbers, from 1. Raises `Fatal` for a file of another kind."""
    readers = {".parquet": _parquet, ".jsonl": _jsonl, ".json": _jsonl, ".csv": _delimited, ".tsv": _delimited}
    if file.suffix not in readers:
        raise Fatal(f"{file}: a file must end in {', '.join(readers)}")
    try:
        yield from readers[file.suffix](file)
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as error:
        raise Fatal(f"{file}: can't be read: {error}") from None


def write(records: Iterable[tuple[PairRecord, float]], file: Path) -> int:
    """Write pairs with their provenance; how many. The file appears whole or not at all."""
    temporary, is_parquet, written = file.with_name(f".{file.name}.tmp"), file.suffix == ".parquet", 0
    rows = (one.pair.model_dump() | one.provenance.model_dump() | {"collected": when} for one, when in records)
    try:
        target: Any = None if is_parquet else temporary.open("w", encoding="utf-8")
        target = target or parquet.ParquetWriter(temporary, SCHEMA, compression="zstd")
        with target:
            for portion in portions(rows):
                if is_parquet:
                    target.write_table(pa.Table.from_pylist(portion, schema=SCHEMA))
                else:
                    target.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in portion)
                written += len(portion)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return written


def our_columns(row: Row) -> dict[str, Any]:
    """A row's `sentence1`, `sentence2` and `score`, whatever its columns are called; None for what it lacks."""
    return {
        column: next((row[name] for name in names if row.get(name) is not None), None)
        for column, names in COLUMNS.items()
    }


def parse_row(row: Row, dataset: str, scale: tuple[float, float], source: str) -> PairRecord:
    """Other people's row as a pair; `scale` is its score's, `source` stands for a missing teacher. Raises `BadRow`."""
    columns = our_columns(row)
    for column, value in columns.items():
        if value is None:
            raise BadRow(f"has no {column} (nor {', '.join(COLUMNS[column][1:])})")
    label = columns["score"]
    try:
        pair = Pair.model_validate(columns | {"score": _score(label, *scale)})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise BadRow(f"{first['loc'][0]}: {first['msg']}") from None
    defaults: Row = {"task": "import", "label": label, "job": "import", "teacher": source, "seed": 0}
    origin = {name: row[name] if row.get(name) is not None else value for name, value in defaults.items()}
    seed = int(origin.pop("seed"))
    strings = {name: str(value) for name, value in origin.items()}
    return PairRecord(pair=pair, provenance=Provenance(dataset=dataset, **strings, seed=seed))


def _score(value: Any, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadRow(f"score: {value!r} is not a number") from None
    score = (number - low) / (high - low)
    if not -1e-9 <= score <= 1 + 1e-9:
        raise BadRow(f"score: {number:g} is not within {low:g} to {high:g}; --scale LOW HIGH says another scale")
    return min(max(score, 0.0), 1.0)


def portions(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Rows in lists of at most `PORTION`."""
    remaining = iter(rows)
    while portion := list(islice(remaining, PORTION)):
        yield portion


def _parquet(file: Path) -> Iterator[tuple[int, Row]]:
    with parquet.ParquetFile(file) as opened:
        yield from enumerate((row for batch in opened.iter_batches(PORTION) for row in batch.to_pylist()), start=1)


def _jsonl(file: Path) -> Iterator[tuple[int, Row]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise Fatal(f"{file}, line {number}: is not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise Fatal(f"{file}, line {number}: is not a JSON object")
                yield number, row


def _delimited(file: Path) -> Iterator[tuple[int, Row]]:
    """With a header line. In a .tsv, quotes are characters like any other."""
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if file.suffix == ".tsv" else {}
    with file.open(encoding="utf-8", newline="") as lines:
        yield from enumerate(csv.DictReader(lines, **options), start=2)
