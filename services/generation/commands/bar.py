"""The progress bar of a job on a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.generation.jobs.progress import JobProgress


@contextlib.contextmanager
def shown(requested: int, with_bar: bool) -> Iterator[Callable[[JobProgress], None]]:
    """Yields what shows how far a job is, of `requested` pairs."""
    words = TextColumn("pairs, {task.fields[rejected]} rejected")
    columns = (BarColumn(), MofNCompleteColumn(), words, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not with_bar) as bar:
        task = bar.add_task("", total=requested, rejected=0)

        def show(progress: JobProgress) -> None:
            done, rejected = progress.accepted.total(), progress.rejected.total()
            bar.update(task, total=progress.requested, completed=done, rejected=rejected)

        yield show
