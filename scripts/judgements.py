"""What people judged, for `make adapt`: which option of `evaluate` takes which file; and BEIR's folders."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from shared.process import ROOT

ANY_MODEL = "default"  # none is loaded
BY_SUFFIX = {".tsv": "--labelled", ".txt": "--labelled", ".jsonl": "--pairs", ".csv": "--pairs", ".parquet": "--pairs"}


class BadInput(Exception):
    """An argument is wrong; the message is one line that names it."""


def eval_options(path: Path) -> list[str]:
    """The options of `evaluate` for a BEIR folder, a file, or a folder of these. Raises `BadInput` for a bad one."""
    if not path.exists():
        raise BadInput(f"EVAL: there is no file or folder {str(path)!r}")
    options = list(_options(path.resolve()))
    if not options:
        wanted = "a BEIR folder, label<tab>text (.tsv), pairs (.jsonl, .csv, .parquet) or STS files (.tsv.gz)"
        raise BadInput(f"EVAL: there is nothing to measure with in {str(path)!r}; it takes {wanted}")
    command = [sys.executable, "-m", "services.trainer", "evaluate", ANY_MODEL, *options, "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise BadInput(f"EVAL: {done.stderr.strip().splitlines()[-1].partition(': ')[2]}")
    return options


def _options(path: Path) -> Iterator[str]:
    if path.is_file():
        if option := BY_SUFFIX.get(path.suffix):
            yield from (option, str(path))
        return
    if (path / "corpus.jsonl").is_file():
        yield from ("--beir", str(path))
        return
    if any(path.glob("*.tsv.gz")):
        yield from ("--sts", str(path))
    for entry in sorted(path.iterdir()):
        if entry.is_file() or (entry / "corpus.jsonl").is_file():
            yield from _options(entry)


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
