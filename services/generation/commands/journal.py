"""The batch command's memory: a file beside its output that holds what became of each unit, in order."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Self, TextIO

from services.generation.jobs.records import Record
from services.generation.pairs.plan import Plan
from shared.errors import Fatal

SUFFIX = ".journal"


class Journal:
    """Opened for one plan; `records` are those of earlier runs and this one's."""

    def __init__(self, file: TextIO, records: list[Record]) -> None:
        self._file = file
        self.records = records

    @classmethod
    def open(cls, out: Path, plan: Plan, teacher: str) -> "Journal":
        """The journal of an output file, begun or gone on with.

        A line that a crash cut short is dropped. Raises `Fatal` if the journal belongs to another plan or teacher, or
        can't be written.
        """
        path = out.with_name(out.name + SUFFIX)
        header = {"plan": hashlib.sha256(plan.model_dump_json().encode()).hexdigest(), "teacher": teacher}
        try:
            if not path.exists():
                out.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("x", encoding="utf-8")
                journal = cls(file, [])
                journal._line(header)
                return journal
            found, records, whole = _read(path)
            if found != header:
                raise Fatal(
                    f"--out: {path} was begun with another {_difference(found, header)}: "
                    "give another --out, or remove the journal to begin anew"
                )
            os.truncate(path, whole)
            return cls(path.open("a", encoding="utf-8"), records)
        except OSError as error:
            raise Fatal(f"--out: {path}: {error.strerror}") from None

    def add(self, record: Record) -> None:
        """Keep a record, durably."""
        self.records.append(record)
        self._line(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _line(self, value: Any) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _read(path: Path) -> tuple[Any, list[Record], int]:
    """The header, the records, and how many bytes of the file are whole lines."""
    whole, values = 0, []
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                values.append(json.loads(line))
            except json.JSONDecodeError:
                break
            whole += len(line)
    return (values[0] if values else None), values[1:], whole


def _difference(found: Any, header: dict[str, str]) -> str:
    if not isinstance(found, dict):
        return "program"
    return " and ".join(name for name in header if found.get(name) != header[name]) or "program"
