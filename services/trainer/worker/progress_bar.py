"""A round's progress bar, for a person at a terminal; silent anywhere else."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Display

from services.trainer.progress import Progress


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, Progress], None]]:
    """Yields what shows, on stderr, how far a round is; after its last line the bar goes away."""
    description, numbers = TextColumn("{task.description}"), TextColumn("{task.fields[numbers]}")
    columns = (description, BarColumn(), MofNCompleteColumn(), numbers, TimeRemainingColumn())
    console = Console(stderr=True)
    display = Display(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = display.add_task("", total=None, visible=False, numbers="")

    def show(round_: int, progress: Progress) -> None:
        loss = [f"loss {progress.loss:.4f}"] if progress.loss is not None else []
        dev = [f"dev {progress.dev:.2f}"] if progress.dev is not None else []
        visible, description = progress.version is None and progress.error is None, f"round {round_} {progress.state}"
        display.update(task, description=description, visible=visible, numbers=", ".join([*loss, *dev]))
        display.update(task, completed=progress.step, total=progress.steps or None)

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
