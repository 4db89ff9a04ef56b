"""`python -m services.embedding embed`: a file of texts into a file of vectors, without HTTP."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from typer.main import get_command

from services.embedding.commands.vector_files import check, create
from services.embedding.models.base import Encoder, Tokens, Vectors, smoke_test
from services.embedding.serving.batcher import workers
from services.embedding.serving.errors import InvalidInput
from services.embedding.serving.quantise import NumberType, quantise
from services.embedding.serving.queue import cut_by_length
from services.embedding.serving.service import EmbedRequest, InputType, dimensions_of, options_of, shape
from services.embedding.settings import EmbeddingSettings
from shared.errors import Fatal
from shared.manifest import Manifest
from shared.model_store import BrokenVersion, ModelStore, NoVersion
from shared.process import claim_stdout, configure_logging
from shared.settings import Settings, load
from shared.tables import TEXT, BadRow, Row, by_folded_name, find, missing, place, read

LoadVersion = Callable[[EmbeddingSettings, Path, Manifest], Encoder]

PROGRAM = "python -m services.embedding embed"
COLUMNS = (TEXT, "sentence", "sentence1")
PORTION_TEXTS, PORTION_CHARS = 4096, 4 * 1024 * 1024
"""In memory at one time, or a single longer text."""
IN_HELP = "texts: one a line, or a table by its name's end (.csv, .tsv, .json, .jsonl, .parquet)"
COLUMN_HELP = f"the column with the texts, default the first of {', '.join(COLUMNS)}; several are joined by a blank"


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    source: Path
    out: Path
    version: str
    columns: list[str]
    output_dtype: NumberType
    skip_bad: bool
    request: EmbedRequest  # without texts


def run(arguments: Sequence[str], load_version: LoadVersion) -> None:
    """Parse, embed, print a summary as JSON. Raises `Fatal` for whatever a person can mend."""
    options = parse(arguments)
    stdout = claim_stdout()
    settings, own = load(Settings), load(EmbeddingSettings)
    level = "WARNING" if settings.log_level == "INFO" else settings.log_level
    configure_logging(level, settings.log_format, "embedding")
    print(json.dumps(embed_file(options, settings, own, load_version)), file=stdout, flush=True)


def embed_file(
    options: Options, settings: Settings, own: EmbeddingSettings, load_version: LoadVersion
) -> dict[str, Any]:
    """Check the whole input, embed it, and say how it went. Raises `Fatal`."""
    check(options.out)
    rows, passed_over, has_ids = _count(options)
    encoder = _load(ModelStore(settings.models_dir), options.version, own, load_version)
    started_at = time.monotonic()
    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True),
        disable=settings.log_format != "human",
    ) as bar:  # fmt: skip
        step = bar.add_task("", total=rows)
        counts = _embed(options, encoder, workers(own), rows, has_ids, lambda texts: bar.advance(step, texts))
    summary = {"file": str(options.out), "version": encoder.version, "rows": rows, "passed_over": passed_over}
    return summary | counts | {"seconds": round(time.monotonic() - started_at, 1)}


def parse(arguments: Sequence[str]) -> Options:
    """Ends the process after `--help` and, with the usage, for options that there aren't."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(_embed_options)
    try:
        options = get_command(app).main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        sys.stderr.write(f"{PROGRAM}: error: {error.format_message()} See --help.\n")
        sys.exit(error.exit_code)
    if not isinstance(options, Options):  # the exit status of --help
        sys.exit(options)
    return options


def _embed_options(
    source: Annotated[Path, typer.Option("--in", metavar="FILE", help=IN_HELP)],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the vectors: .parquet, .jsonl or .npy by its name's end")],
    version: Annotated[str, typer.Option(metavar="NAME", help="current, previous or a version's id")] = "current",
    column: Annotated[list[str] | None, typer.Option(metavar="NAME", help=COLUMN_HELP)] = None,
    input_type: Annotated[InputType | None, typer.Option(help="chooses the version's prompt")] = None,
    prompt_name: Annotated[str | None, typer.Option(metavar="NAME", help="chooses it by name")] = None,
    dimensions: Annotated[int | None, typer.Option(metavar="N", help="a length the version was trained for")] = None,
    output_dtype: Annotated[NumberType, typer.Option(help="the type of numbers (docs/clients.md)")] = "float",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="pass over rows without a text")] = False,
) -> Options:
    """Texts in, normalised vectors out, a row each, in the order of the file. The file appears whole or not at all.

    All rows are read and checked before anything is computed. Settings as for the service (PAIRWRIGHT_...).
    """
    request = EmbedRequest([], prompt_name=prompt_name, input_type=input_type, dimensions=dimensions)
    return Options(source, out, version, column or [], output_dtype, skip_bad, request)


def _load(store: ModelStore, name: str, own: EmbeddingSettings, load_version: LoadVersion) -> Encoder:
    try:
        version = store.resolve(name)
        encoder = load_version(own, store.path(version), store.verify(version))
        smoke_test(encoder)
    except (NoVersion, BrokenVersion) as error:
        raise Fatal(f"--version: {error}") from None
    return encoder


def _rows(options: Options) -> Iterator[tuple[int, tuple[str | None, str] | BadRow]]:
    """Id and text of each row, or what is wrong with it, with its number. Raises `Fatal`."""
    for number, row in read(options.source):
        try:
            yield number, _id_and_text(row, options.columns)
        except BadRow as error:
            yield number, error


def _id_and_text(row: Row | BadRow, columns: Sequence[str]) -> tuple[str | None, str]:
    """Raises `BadRow`."""
    if isinstance(row, BadRow):
        raise row
    values, parts = by_folded_name(row), list[str]()
    wanted: list[tuple[str, ...]] = [(name,) for name in columns] or [COLUMNS]
    for names in wanted:
        if (part := find(values, names)) is None:
            raise missing(row, names, "--column NAME")
        if not isinstance(part, str):
            raise BadRow(f"{names[0]}: {str(part)[:40]!r} is no text")
        parts.append(part)
    text, id_ = " ".join(parts), find(values, ("id",))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow("holds half a character (a lone surrogate)") from None
    return None if id_ is None else str(id_), text


def _count(options: Options) -> tuple[int, int, bool]:
    """Rows with a text, rows without, and whether any has an id. Raises `Fatal`, with the first bad row."""
    rows = bad = 0
    first_bad, has_ids = "", False
    for number, row in _rows(options):
        if isinstance(row, BadRow):
            bad, first_bad = bad + 1, first_bad or f"{place(options.source, number)}: {row}"
            if not options.skip_bad:
                raise Fatal(f"--in: {options.source}, {first_bad}; mend it, or pass over such rows with --skip-bad")
        else:
            rows, has_ids = rows + 1, has_ids or row[0] is not None
    if not rows:
        raise Fatal(f"--in: {options.source} holds no text" + (f"; {first_bad}" if bad else ""))
    if bad:
        sys.stderr.write(f"--in: {bad} rows of {options.source} are passed over; the first, {first_bad}\n")
    return rows, bad, has_ids


def _embed(
    options: Options, encoder: Encoder, threads: int, rows: int, has_ids: bool, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Write all vectors; how many tokens were read, texts cut, and texts without a known token. Raises `Fatal`."""
    request, counts, written = options.request, Counter[str](tokens=0, truncated=0, unknown=0), 0
    try:
        reading, dimensions = options_of(request, encoder), dimensions_of(request, encoder)
    except InvalidInput as error:
        raise Fatal(f"--{(error.field or '').replace('_', '-')}: {error}") from None

    def encode(batch: list[Tokens]) -> Vectors:
        return encoder.encode(batch, reading)

    def convert(vectors: Vectors) -> Any:
        unit = shape(vectors, dimensions, normalize=True)
        return quantise(options.output_dtype, unit, encoder.int8_ranges[dimensions])

    sample = convert(np.zeros((1, encoder.manifest.dimensions), np.float32))
    try:
        with ThreadPoolExecutor(threads) as pool, create(options.out, rows, sample, has_ids) as write:
            for ids, texts in _portions(options):
                tokens = encoder.tokenise(texts, reading)
                vectors = np.empty((len(texts), encoder.manifest.dimensions), np.float32)
                batches = cut_by_length(encoder, tokens)
                computed = pool.map(encode, [[tokens[index] for index in batch] for batch in batches])
                for batch, part in zip(batches, computed, strict=True):
                    vectors[batch] = part
                counts["tokens"] += sum(text.count for text in tokens)
                counts["truncated"] += sum(text.total > text.count for text in tokens)
                counts["unknown"] += int((~vectors.any(axis=1)).sum())
                write(ids, texts, convert(vectors))
                written += len(texts)
                advance(len(texts))
            if written != rows:
                raise Fatal(f"--in: {options.source} changed while it was read")
    except OSError as error:
        raise Fatal(f"--out: {options.out}: {error.strerror}") from None
    return dict(counts)


def _portions(options: Options) -> Iterator[tuple[list[str | None], list[str]]]:
    """Ids and texts of good rows, as many as memory is to hold at one time."""
    ids, texts, chars = list[str | None](), list[str](), 0
    for _, row in _rows(options):
        if isinstance(row, BadRow):
            continue
        if len(texts) == PORTION_TEXTS or (texts and chars + len(row[1]) > PORTION_CHARS):
            yield ids, texts
            ids, texts, chars = [], [], 0
        ids.append(row[0])
        texts.append(row[1])
        chars += len(row[1])
    if texts:
        yield ids, texts
