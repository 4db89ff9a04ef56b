"""Results as JSON Lines: a trial that is in the file is not run again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Results:
    """The file of a folder's results, by trial key. A last line that a death cut short is written over."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[str, dict[str, Any]] = {}
        whole = 0
        if file.is_file():
            for line in file.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                row = json.loads(line)
                self._found[row["key"]] = row
                whole += len(line)
            if whole < file.stat().st_size:
                with file.open("r+b") as broken:
                    broken.truncate(whole)

    def get(self, key: str) -> dict[str, Any] | None:
        """What the trial gave; None if it was not run."""
        return self._found.get(key)

    def add(self, key: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a result."""
        row = {"key": key, **result}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._found[key] = row
        return row
