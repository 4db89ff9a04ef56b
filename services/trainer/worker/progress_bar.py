"""A round's progress bar, for a person at a terminal; silent anywhere else."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from services.trainer.progress import Progress


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, Progress], None]]:
    """Yields what shows, on stderr, how far a round is; after its last line the bar goes away."""
    round_column, state, numbers = (TextColumn(f"{{task.{name}}}") for name in
                                    ("fields[round]", "description", "fields[numbers]"))  # fmt: skip
    columns = (round_column, state, BarColumn(), MofNCompleteColumn(), numbers, TimeRemainingColumn())
    console = Console(stderr=True)
    display = Display(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = display.add_task("", total=None, visible=False, round="", numbers="")

    def show(round_: int, progress: Progress) -> None:
        loss = [f"loss {progress.loss:.4f}"] if progress.loss is not None else []
        dev = [f"dev {progress.dev:.2f}"] if progress.dev is not None else []
        fields: dict[str, Any] = {"round": f"round {round_}", "numbers": ", ".join([*loss, *dev])}
        fields["visible"] = progress.version is None and progress.error is None
        display.update(
            task, description=progress.state, completed=progress.step, total=progress.steps or None, **fields
        )

    try:
        with display:
            _log_to_stderr()  # rich stands there now, and prints lines above the bar instead of through it
            yield show
    finally:
        _log_to_stderr()


def _log_to_stderr() -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
