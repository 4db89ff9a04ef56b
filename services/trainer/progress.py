"""What a round's child process tells the worker: JSON lines on its stdout."""

import os
import sys
import time
from typing import TextIO

from pydantic import BaseModel, ConfigDict

INTERVAL_S = 1.0


class Progress(BaseModel):
    """How far a round is. The last line of a round has its `version` or its `fault`."""

    model_config = ConfigDict(frozen=True)

    state: str = "training"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    """The mean of the steps since the line before."""
    dev: float | None = None
    """Spearman x 100 on the synthetic dev side, at the end of the last epoch."""
    seconds_left: float | None = None
    version: str | None = None
    scores: dict[str, float] = {}
    fault: str | None = None


class Reporter:
    """Writes progress, at most once a second unless it matters."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._last = 0.0

    def say(self, progress: Progress, always: bool = True) -> None:
        """Write one line."""
        if always or time.monotonic() - self._last >= INTERVAL_S:
            self._last = time.monotonic()
            self._output.write(progress.model_dump_json(exclude_defaults=True) + "\n")
            self._output.flush()


def first_line(error: Exception) -> str:
    """An error in one line that fits a log and a status note: some libraries' messages have hundreds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def claim_stdout() -> TextIO:
    """Our own handle on stdout. Whatever libraries print goes to stderr from now on and tears no line of ours."""
    sys.stdout.flush()
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return ours
