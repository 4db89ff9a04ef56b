"""A round in a process of its own: its memory goes back when it ends, and no crash in it stops collecting."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable

from pydantic import ValidationError

from services.trainer.progress import Progress
from shared import tracing
from shared.process import ROOT, tied_to_parent

RunRound = Callable[[int, int, Callable[[Progress], None]], Awaitable[Progress]]


async def run_child(id_: int, epoch: int, on_progress: Callable[[Progress], None]) -> Progress:
    """Run a round; its last progress has `version` or `error`. The child dies with us, or when this is cancelled."""
    command = tied_to_parent([sys.executable, "-m", "services.trainer", "round", str(id_), "--epoch", str(epoch)])
    # Our own working directory, since settings may be relative paths; so Python must be told where the code is.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path} | ({tracing.CARRIER: here} if (here := tracing.traceparent()) else {})
    # A session of its own: Ctrl-C is for the worker, which then ends the child.
    child = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, env=env, start_new_session=True)
    assert child.stdout is not None
    last = Progress()
    try:
        async for line in child.stdout:
            with contextlib.suppress(ValidationError):  # a line torn by the child's death
                last = Progress.model_validate_json(line)
                on_progress(last)
        status = await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if last.error is not None or (status == 0 and last.version is not None):
        return last
    error = f"its process ended with status {status} and said nothing"
    if status < 0:
        name = signal.Signals(-status).name
        error = f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return last.model_copy(update={"error": error, "version": None})
