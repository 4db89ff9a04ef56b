"""A round's progress bar, for a person at a terminal; silent anywhere else."""

import logging
import sys
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from services.trainer.progress import Progress


class ProgressBar:
    """Shows the round that runs, on stderr. Use it in a `with`."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("round {task.fields[round]}"),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
        )
        self._display = Display(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._display.add_task("", total=None, visible=False, round="", numbers="")

    def show(self, round_: int, progress: Progress) -> None:
        """Bring the bar up to date; after the round's last line it goes away."""
        done = progress.version is not None or progress.error is not None
        numbers = [f"loss {progress.loss:.4f}"] if progress.loss is not None else []
        numbers += [f"dev {progress.dev:.2f}"] if progress.dev is not None else []
        self._display.update(
            self._task,
            description=progress.state,
            completed=progress.step,
            total=progress.steps or None,
            visible=not done,
            round=round_,
            numbers=", ".join(numbers),
        )

    def __enter__(self) -> "ProgressBar":
        self._display.start()
        self._send_logs_to(sys.stderr)  # rich stands there now, and prints lines above the bar instead of through it
        return self

    def __exit__(self, *_: object) -> None:
        self._display.stop()
        self._send_logs_to(sys.stderr)

    def _send_logs_to(self, stream: TextIO) -> None:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(stream)
