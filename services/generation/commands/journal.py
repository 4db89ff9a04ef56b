"""The command's memory: a file beside its output that holds the result of each work item, in order."""

import hashlib
import json
import os
from itertools import takewhile
from pathlib import Path
from typing import Self, TextIO

from pydantic import ValidationError

from services.generation.pairs.plan import ResolvedPlan
from services.generation.pairs.work_item import WorkItemResult
from shared.errors import Fatal


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
        path = out.with_name(out.name + ".journal")
        header = {"plan": hashlib.sha256(plan.model_dump_json().encode()).hexdigest(), "teacher": teacher}
        try:
            if not path.exists():
                out.parent.mkdir(parents=True, exist_ok=True)
                journal = cls(path.open("x", encoding="utf-8"), [])
                journal._write_line(json.dumps(header))
                return journal
            with path.open("rb") as file:
                lines = list(takewhile(_is_whole, file))
            difference = _difference(lines[0] if lines else b"null", header)
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
        """Keep a result, durably."""
        self.results.append(result)
        self._write_line(result.to_json())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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


def _difference(line: bytes, header: dict[str, str]) -> str | None:
    """Which parts of a journal's first line are not those of `header`; None if all are."""
    begun = json.loads(line)
    if begun == header:
        return None
    names = header if isinstance(begun, dict) else ()
    return " and ".join(name for name in names if begun.get(name) != header[name]) or "program"
