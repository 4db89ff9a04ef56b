"""What people judged, for `make adapt`: which option of `evaluate` takes which file; and BEIR's folders."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shared.process import ROOT

ANY_MODEL = "default"  # none is loaded
BY_SUFFIX = {".tsv": "--labelled", ".txt": "--labelled", ".jsonl": "--pairs", ".csv": "--pairs", ".parquet": "--pairs"}
WANTED = (
    "a BEIR folder, label<tab>text (.tsv), pairs (.jsonl, .csv, .parquet), STS files (.tsv.gz), or lines of query and"
    " relevant (.jsonl)"
)
JudgedQuery = tuple[str, list[str]]
"""A query, and the ids of the documents that are relevant to it."""


class BadInput(Exception):
    """An argument is wrong; the message is one line that names it."""


@dataclass(frozen=True)
class Judgements:
    """What people judged."""

    options: list[str] = field(default_factory=list)
    """Of `evaluate`."""
    queries: list[JudgedQuery] = field(default_factory=list)
    """Of the documents that are adapted to."""


def read_judgements(path: Path) -> Judgements:
    """Of a BEIR folder, a file, or a folder of these. Raises `BadInput` for a bad one."""
    if not path.exists():
        raise BadInput(f"EVAL: there is no file or folder {str(path)!r}")
    found = Judgements()
    _find(path.resolve(), found)
    if not (found.options or found.queries):
        raise BadInput(f"EVAL: there is nothing to measure with in {str(path)!r}; it takes {WANTED}")
    if found.options:
        command = [sys.executable, "-m", "services.trainer", "evaluate", ANY_MODEL, *found.options, "--dry-run"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise BadInput(f"EVAL: {done.stderr.strip().splitlines()[-1].partition(': ')[2]}")
    return found


def _find(path: Path, found: Judgements) -> None:
    if path.is_file():
        if path.suffix == ".jsonl" and (queries := _judged_queries(path)):
            found.queries.extend(queries)
        elif option := BY_SUFFIX.get(path.suffix):
            found.options.extend((option, str(path)))
        return
    if (path / "corpus.jsonl").is_file():
        found.options.extend(("--beir", str(path)))
        return
    if any(path.glob("*.tsv.gz")):
        found.options.extend(("--sts", str(path)))
    for entry in sorted(path.iterdir()):
        if entry.is_file() or (entry / "corpus.jsonl").is_file():
            _find(entry, found)


def _judged_queries(file: Path) -> list[JudgedQuery]:
    """Lines of `{"query": ..., "relevant": [ids]}`; [] for a file of another form. Raises `BadInput`."""
    queries = list[JudgedQuery]()
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            if number == 1 and "relevant" not in row:
                return []
            queries.append((str(row["query"]), [str(name) for name in list(row["relevant"])]))
        except (ValueError, TypeError, KeyError):
            raise BadInput(f"EVAL: {file}, line {number}: is not a JSON object with query and relevant") from None
    return queries


def write_beir(
    folder: Path, corpus: Iterable[tuple[str, str, str]], queries: Iterable[tuple[str, Sequence[str]]]
) -> None:
    """Documents as id, title and text; queries with the ids of their relevant documents."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(_line({"_id": name, "title": title, "text": text}) for name, title, text in corpus)
    with (
        (folder / "queries.jsonl").open("w", encoding="utf-8") as file,
        (folder / "qrels" / "test.tsv").open("w", encoding="utf-8") as judged,
    ):
        judged.write("query-id\tcorpus-id\tscore\n")
        for number, (query, relevant) in enumerate(queries):
            file.write(_line({"_id": str(number), "text": query}))
            judged.writelines(f"{number}\t{name}\t1\n" for name in relevant)


def _line(row: dict[str, str]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
