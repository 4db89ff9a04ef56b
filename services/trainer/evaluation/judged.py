"""What people judged, in the forms that it comes in: BEIR's folders, texts with labels, pairs marked 0 or 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.trainer.dataset.files import our_columns, read
from shared.errors import Fatal
from shared.tables import place

SPLITS = ("test", "dev", "validation", "train")


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, documents, and by query the grades of the relevant documents by their number."""

    queries: list[str]
    documents: list[str]
    relevant: list[dict[int, float]]


@dataclass(frozen=True)
class LabelledSet:
    """Texts and their labels."""

    texts: list[str]
    labels: list[str]


@dataclass(frozen=True)
class PairSet:
    """Pairs, and whether both sentences of each mean the same."""

    sentence1: list[str]
    sentence2: list[str]
    same: list[bool]


def set_name(path: Path) -> str:
    """A folder's or file's name, without its ending; `test` and the like are told apart by their folder."""
    path = path.expanduser().resolve()
    name = path.name if path.is_dir() else path.stem
    return f"{path.parent.name}.{name}" if name in SPLITS else name


def read_retrieval(folder: Path, option: str) -> RetrievalSet:
    """A folder as BEIR has them: `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`, or another split.

    Queries without a relevant document are left out. Raises `Fatal` that names a bad row.
    """
    corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
    for file in (corpus, queries):
        if not file.is_file():
            raise Fatal(f"{option}: there is no file {str(file)!r}; a BEIR folder has corpus.jsonl and queries.jsonl")
    judgements = sorted((folder / "qrels").glob("*.tsv"), key=lambda file: (_rank(file.stem), file.name))
    if not judgements:
        raise Fatal(f"{option}: there is no file {folder}/qrels/*.tsv with what people found relevant")
    documents = {_field(row, "_id", corpus, n): _document(row, corpus, n) for n, row in read(corpus)}
    texts = {_field(row, "_id", queries, n): _field(row, "text", queries, n) for n, row in read(queries)}
    numbers = {name: number for number, name in enumerate(documents)}
    relevant: dict[str, dict[int, float]] = {}
    for number, row in read(judgements[0]):
        query, document = (_field(row, name, judgements[0], number) for name in ("query-id", "corpus-id"))
        grade = _number(row.get("score"), "score", judgements[0], number)
        if grade > 0 and query in texts and document in numbers:  # BEIR's own sets name documents that are not there
            relevant.setdefault(query, {})[numbers[document]] = grade
    if not relevant:
        raise Fatal(f"{option}: {judgements[0]} finds no document of {corpus} relevant to a query of {queries}")
    return RetrievalSet([texts[query] for query in relevant], list(documents.values()), list(relevant.values()))


def read_labelled(file: Path, option: str) -> LabelledSet:
    """Texts with labels: lines `label<tab>text`, with or without that header, or columns `label` and `text`.

    Raises `Fatal` that names a bad line.
    """
    if not file.is_file():
        raise Fatal(f"{option}: there is no file {str(file)!r}")
    rows = list(_labelled_lines(file) if file.suffix in (".tsv", ".txt") else _labelled_columns(file))
    if not rows:
        raise Fatal(f"{option}: {file} has no labelled text")
    return LabelledSet([text for _, text in rows], [label for label, _ in rows])


def read_pairs(file: Path, option: str) -> PairSet:
    """Pairs with a label of 0 or 1, in any form that `dataset import` takes. Raises `Fatal` that names a bad row."""
    if not file.is_file():
        raise Fatal(f"{option}: there is no file {str(file)!r}")
    found = PairSet([], [], [])
    for number, row in read(file):
        one, other, label = our_columns(row).values()
        if not isinstance(one, str) or not isinstance(other, str):
            raise Fatal(f"{file}, {place(file, number)}: has no sentence1 and sentence2")
        value = _number(label, "label", file, number)
        if value not in (0, 1):
            raise Fatal(f"{file}, {place(file, number)}: the label {label!r} is neither 0 nor 1; --data takes scores")
        found.sentence1.append(one)
        found.sentence2.append(other)
        found.same.append(value == 1)
    return found


def _labelled_lines(file: Path) -> Iterator[tuple[str, str]]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                label, tab, text = line.rstrip("\r\n").partition("\t")
                if number == 1 and (label, text) == ("label", "text"):
                    continue
                if tab and text.strip():
                    yield label, text
                elif line.strip():
                    raise Fatal(f"{file}, line {number}: is not label<tab>text")
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(f"{file}: can't be read: {error}") from None


def _labelled_columns(file: Path) -> Iterator[tuple[str, str]]:
    for number, row in read(file):
        yield _field(row, "label", file, number), _field(row, "text", file, number)


def _document(row: Any, file: Path, number: int) -> str:
    title, text = row.get("title") or "", _field(row, "text", file, number)
    return f"{title} {text}".strip()


def _field(row: Any, name: str, file: Path, number: int) -> str:
    value = row.get(name)
    if value is None:
        raise Fatal(f"{file}, {place(file, number)}: has no {name!r}")
    return str(value)


def _number(value: Any, name: str, file: Path, number: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Fatal(f"{file}, {place(file, number)}: the {name} {value!r} is not a number") from None


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)
