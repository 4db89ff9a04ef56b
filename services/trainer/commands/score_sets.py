"""What `evaluate` scores on beside STS files: any set of scored sentence pairs, and tasks of MTEB."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from services.trainer.dataset.files import Row, our_columns, read
from services.trainer.evaluation.sts import StsFile
from shared.errors import Fatal, first_line


def pair_set(name: str) -> StsFile:
    """A file, or a data set of the hub as NAME or NAME:SPLIT (`test` when it isn't said). Raises `Fatal`."""
    if Path(name).is_file():
        return _rows(name, (row for _, row in read(Path(name))))
    if name.startswith((".", "/", "~")) or Path(name).suffix in (".parquet", ".jsonl", ".csv", ".tsv"):
        raise Fatal(f"--data: there is no file {name!r}")
    from datasets import load_dataset

    repo, _, split = name.partition(":")
    try:
        return _rows(name, load_dataset(repo, split=split or "test"))
    except Fatal:
        raise
    except Exception as error:  # a dozen classes of the hub's, of httpx and of the system
        raise Fatal(f"--data: can't get {name!r} from the hub: {first_line(error)}") from None


def mteb_scores(model: Any, tasks: Sequence[str]) -> dict[str, float]:
    """The main score x 100 of each MTEB task. Raises `Fatal` without `mteb`, for an unknown task or without a hub."""
    if not tasks:
        return {}
    try:
        import mteb
    except ImportError:
        raise Fatal("--mteb: needs the package mteb: .venv/bin/python -m pip install mteb") from None
    try:
        results = mteb.evaluate(model, mteb.get_tasks(tasks=list(tasks)), overwrite_strategy="always")
        return {result.task_name: round(100 * float(result.get_score()), 2) for result in results}
    except Exception as error:  # unknown tasks, and whatever downloading raises
        raise Fatal(f"--mteb: {first_line(error)}") from None


def _rows(name: str, rows: Iterable[Row]) -> StsFile:
    scored = []
    for number, row in enumerate(rows, start=1):
        one, other, score = our_columns(row).values()
        if not isinstance(one, str) or not isinstance(other, str):
            raise Fatal(f"--data {name}, row {number}: has no sentence1 and sentence2")
        try:
            scored.append((one, other, float(str(score))))
        except (TypeError, ValueError):
            raise Fatal(f"--data {name}, row {number}: the score {score!r} is not a number") from None
    return StsFile(scored, [""] * len(scored))
