"""How a round's child process reports to the worker: JSON lines on its stdout."""

import time
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict


class Progress(BaseModel):
    """How far a round is. The last line of a round has its `version` (with a `rejection` or without) or its `error`."""

    model_config = ConfigDict(frozen=True)

    state: str = "training"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    """The mean of the steps since the line before."""
    dev: float | None = None
    """Spearman x 100 on the synthetic dev side, at the end of the last epoch."""
    fresh: tuple[Literal["loss", "dev"], ...] = ()
    """Which of the two this line is the first to have: points of the round's curves."""
    seconds_left: float | None = None
    version: str | None = None
    rejection: str | None = None
    """Why the gate refused the version."""
    held: bool = False
    """The gate had no evidence: a person decides."""
    estimates: dict[str, dict[str, float]] = {}
    """Label-free estimates by student (`candidate`, `base`, `current`) and kind of task."""
    scores: dict[str, float] = {}
    error: str | None = None
    transient: bool = False
    """The error is the machine's (a full disk, a base that is gone), not the round's: it is tried until it works."""

    @property
    def outcome(self) -> str:
        """How a try at a round ended, of its last line: `published`, `rejected`, `held`, `failed` or `postponed`."""
        if self.error is not None or self.version is None:
            return "postponed" if self.transient else "failed"
        return "published" if self.rejection is None else "held" if self.held else "rejected"


class Output(Protocol):
    """Takes lines of text, as a file does."""

    def write(self, text: str, /) -> object:
        """Take a line."""

    def flush(self) -> object:
        """Keep nothing back."""


class Reporter:
    """Writes progress: what matters at once, and steps at most ten times a second."""

    def __init__(self, output: Output) -> None:
        self._output, self._last_s, self._state = output, 0.0, ""

    def report(self, progress: Progress) -> None:
        """Write one line, unless the last one has just been written and this one has nothing new but its step."""
        is_last = progress.version is not None or progress.error is not None
        matters = is_last or bool(progress.fresh) or progress.state != self._state
        if matters or time.monotonic() - self._last_s >= 0.1:
            self._last_s, self._state = time.monotonic(), progress.state
            self._output.write(progress.model_dump_json(exclude_defaults=True) + "\n")
            self._output.flush()
