"""Rounds and maps in processes of their own: their memory goes back when they end, and no crash stops collecting."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable, Sequence

from pydantic import ValidationError

from services.trainer.progress import Progress
from shared import tracing
from shared.process import ROOT, tied_to_parent

RunRound = Callable[[int, int, Callable[[Progress], None]], Awaitable[Progress]]


async def run_child(id_: int, epoch: int, on_progress: Callable[[Progress], None]) -> Progress:
    """Run a round; its last progress has `version` or `error`. The child dies with us, or when this is cancelled."""
    last = Progress()

    def follow(line: bytes) -> None:
        nonlocal last
        with contextlib.suppress(ValidationError):  # a line torn by the child's death
            last = Progress.model_validate_json(line)
            on_progress(last)

    status = await follow_child(["round", str(id_), "--epoch", str(epoch)], follow)
    if last.error is not None or (status == 0 and last.version is not None):
        return last
    return last.model_copy(update={"error": how_it_ended(status), "version": None})


async def follow_child(arguments: Sequence[str], on_line: Callable[[bytes], None]) -> int:
    """Run a command of ours in a process, line by line of its output; its status.

    It dies with us, or when this is cancelled.
    """
    command = tied_to_parent([sys.executable, "-m", "services.trainer", *arguments])
    # Our own working directory, since settings may be relative paths; so Python must be told where the code is.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path} | ({tracing.CARRIER: here} if (here := tracing.traceparent()) else {})
    # A session of its own: Ctrl-C is for the worker, which then ends the child.
    child = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, env=env, start_new_session=True)
    assert child.stdout is not None
    try:
        async for line in child.stdout:
            on_line(line)
        return await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def how_it_ended(status: int) -> str:
    """Of a process that said nothing itself."""
    if status < 0:
        name = signal.Signals(-status).name
        return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"its process ended with status {status} and said nothing"
