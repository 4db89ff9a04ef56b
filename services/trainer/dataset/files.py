"""Files of pairs, in and out, in portions: ours and other people's columns."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from pydantic import ValidationError

from shared import tables
from shared.errors import Fatal, validation_message
from shared.pairs import Pair, PairRecord, Provenance
from shared.tables import BadRow, by_folded_name, find, missing, place, text_of

PORTION = 10_000
COLUMNS: Mapping[str, Sequence[str]] = {
    "sentence1": ("sentence1", "text_a", "sentence_a", "text1", "question1"),
    "sentence2": ("sentence2", "text_b", "sentence_b", "text2", "question2"),
    "score": ("score", "label", "similarity_score", "similarity", "relatedness_score"),
}
"""What others call our columns; text_a, text_b and label are those of the original DINO's files."""
STRINGS = ("sentence1", "sentence2"), ("dataset", "task", "label", "job", "teacher")
SENTENCES, PROVENANCE = (dict.fromkeys(names, pa.string()) for names in STRINGS)
SCHEMA = pa.schema(SENTENCES | {"score": pa.float64()} | PROVENANCE | {"seed": pa.int64(), "collected": pa.float64()})
IMPORTED = {"task": "import", "job": "import", "seed": 0}
SEEDS = range(-(2**63), 2**63)

Row = tables.Row


def read(file: Path) -> Iterator[tuple[int, Row]]:
    """A file's rows with their numbers. Raises `Fatal`, for the first bad row too."""
    for number, row in tables.read(file):
        if isinstance(row, BadRow):
            raise Fatal(f"{file}, {place(file, number)}: {row}")
        yield number, row


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


def columns_from(text: str | None) -> Mapping[str, Sequence[str]]:
    """`COLUMNS` with those of `THEIRS=OURS,...` in their place. Raises `Fatal`."""
    columns = dict(COLUMNS)
    for part in filter(str.strip, (text or "").split(",")):
        theirs, _, ours = (one.strip() for one in part.rpartition("="))
        if not theirs or ours not in COLUMNS:
            raise Fatal(f"--columns: {part.strip()!r} must be THEIRS=OURS; ours are {', '.join(COLUMNS)}")
        columns[ours] = (theirs,)
    return columns


def our_columns(row: Row, columns: Mapping[str, Sequence[str]] = COLUMNS) -> dict[str, Any]:
    """A row's `sentence1`, `sentence2` and `score`, whatever its columns are called; None for what it lacks."""
    values = by_folded_name(row)
    return {column: find(values, names) for column, names in columns.items()}


def parse_row(
    row: Row | BadRow,
    dataset: str,
    scale: tuple[float, float],
    source: str,
    columns: Mapping[str, Sequence[str]] = COLUMNS,
) -> PairRecord:
    """Other people's row as a pair; `scale` is its score's, `source` stands for a missing teacher. Raises `BadRow`."""
    if isinstance(row, BadRow):
        raise row
    given = by_folded_name(row)
    ours = {column: find(given, names) for column, names in columns.items()}
    for column, value in ours.items():
        if value is None:
            raise missing(row, columns[column], f"--columns NAME={column}")
    label = ours["score"]
    sentences = {name: text_of(ours[name], name) for name in ("sentence1", "sentence2")}
    try:
        pair = Pair.model_validate(sentences | {"score": _score(label, *scale)})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise BadRow(f"{first['loc'][0]}: {validation_message(first)}") from None
    defaults: Row = IMPORTED | {"label": label, "teacher": source}
    origin = {name: given.get(name, value) for name, value in defaults.items()}
    seed = _seed(origin.pop("seed"))
    strings = {name: str(value) for name, value in origin.items()}
    return PairRecord(pair=pair, provenance=Provenance(dataset=dataset, **strings, seed=seed))


def _score(value: Any, low: float, high: float) -> float:
    try:  # half of Europe writes a decimal comma
        number = float(value.replace(",", ".") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise BadRow(f"score: {value!r} is not a number") from None
    score = (number - low) / (high - low)
    if not -1e-9 <= score <= 1 + 1e-9:
        raise BadRow(f"score: {number:g} is not within {low:g} to {high:g}; --scale LOW HIGH says another scale")
    return min(max(score, 0.0), 1.0)


def _seed(value: Any) -> int:
    try:
        seed = int(value)
        is_whole = seed == value or isinstance(value, str)
    except (TypeError, ValueError, OverflowError):
        seed, is_whole = 0, False
    if not is_whole or seed not in SEEDS:
        raise BadRow(f"seed: {str(value)[:40]!r} is not a whole number of 64 bits")
    return seed


def portions(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Rows in lists of at most `PORTION`."""
    remaining = iter(rows)
    while portion := list(islice(remaining, PORTION)):
        yield portion
