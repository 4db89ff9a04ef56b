"""The command's memory: a file beside its output that holds the result of each work item, in order."""

import contextlib
import hashlib
import json
import os
import shutil
from itertools import takewhile
from pathlib import Path
from typing import Any, Self, TextIO

from pydantic import ValidationError

from services.generation.pairs.plan import PLAN_VERSION, ResolvedPlan, plan_hash
from services.generation.pairs.work_item import WorkItemResult
from shared.errors import Fatal

BYTES_PER_PAIR = 500
"""About what a pair takes in the journal and the output together."""


def _check_space(out: Path, plan: ResolvedPlan) -> None:
    """Raises `Fatal` for a disk that can't hold the pairs: better before the work than after it."""
    needed, free = plan.pairs_requested * BYTES_PER_PAIR, shutil.disk_usage(out.parent).free
    if free < needed:
        message = f"{plan.pairs_requested} pairs need about {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free"
        raise Fatal(f"--out: {out.parent}: {message}")


def last_passage(out: Path) -> int | None:
    """What the journal of an output file was begun with; None without a journal that says so."""
    try:
        with _path(out).open("rb") as file:
            return int(json.loads(file.readline())["last_passage"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(out: Path) -> Path:
    return out.with_name(out.name + ".journal")


class Journal:
    """Opened for one plan; `results` are those of earlier runs and this one's."""

    def __init__(self, file: TextIO, results: list[WorkItemResult]) -> None:
        self._file = file
        self.results = results

    @classmethod
    def open(cls, out: Path, plan: ResolvedPlan, teacher: str) -> "Journal":
        """The journal of an output file, begun or gone on with; a line that a crash cut short is dropped.

        Raises `Fatal` if it belongs to another plan, teacher or program, or can't be written.
        """
        path = _path(out)
        header: dict[str, Any] = {"version": PLAN_VERSION, "plan": plan_hash(plan), "teacher": teacher}
        if plan.queries is not None:
            header["last_passage"] = plan.last_passage
        if out.is_dir():
            raise Fatal(f"--out: {out} is a folder; name a file")
        try:
            if not path.exists():
                out.parent.mkdir(parents=True, exist_ok=True)
                _check_space(out, plan)
                journal = cls(path.open("x", encoding="utf-8"), [])
                journal._write_line(json.dumps(header))
                return journal
            with path.open("rb") as file:
                lines = list(takewhile(_is_whole, file))
            difference = _difference(lines[0] if lines else b"null", header, _old_header(plan, teacher))
            if difference is None:
                results = [WorkItemResult.model_validate_json(line) for line in lines[1:]]
                os.truncate(path, sum(map(len, lines)))
                return cls(path.open("a", encoding="utf-8"), results)
        except ValidationError:
            difference = "program"
        except OSError as error:
            raise Fatal(f"--out: {path}: {error.strerror}") from None
        advice = "give another --out, or remove the journal to begin anew"
        raise Fatal(f"--out: {path} was begun with another {difference}: {advice}")

    def add(self, result: WorkItemResult) -> None:
        """Keep a result, durably. Raises `Fatal`; what was kept before stays."""
        try:
            self._write_line(result.to_json())
        except OSError as error:
            advice = "what was written so far is kept; the same command goes on from there"
            raise Fatal(f"--out: {self._file.name}: {error.strerror}: {advice}") from None
        self.results.append(result)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # what a full disk refused is still buffered; every whole line is kept
            self._file.close()

    def _write_line(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n")


def _old_header(plan: ResolvedPlan, teacher: str) -> dict[str, Any]:
    """The header of a journal of 0.1, which hashed every field."""  # retired: remove in 0.3
    new: Any = {"labels": {"__all__": {"label_accuracy"}}}
    later = dict.fromkeys(("queries", "contrast", "round_trip_k", "last_passage"), True)
    fields = plan.model_dump_json(exclude={"dry_run": True, "task": new, "sentence1_task": new, **later})
    return {"plan": hashlib.sha256(fields.encode()).hexdigest(), "teacher": teacher}


def _difference(line: bytes, header: dict[str, Any], old_header: dict[str, Any]) -> str | None:
    """Which parts of a journal's first line are not those of `header`; None if all are."""
    begun = json.loads(line)
    if begun in (header, old_header):
        return None
    names = header if isinstance(begun, dict) else ()
    return " and ".join(name for name in names if begun.get(name) != header[name]) or "program"
