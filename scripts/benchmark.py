"""What the benchmarks share: a ready stack, commands that print JSON, and the result as the last line."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from scripts.stack import Stack
from shared.errors import Fatal
from shared.process import ROOT, configure_logging, exit_with
from shared.settings import Settings

Ready = TypeVar("Ready")


def run(main: Callable[[], dict[str, Any]]) -> None:
    """Run a benchmark and print its result as one JSON object. A `Fatal` becomes one line on stderr."""
    configure_logging("WARNING")
    try:
        print(json.dumps(main()), flush=True)
    except Fatal as fatal:
        exit_with("bench", fatal)
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def running(
    settings: Settings,
    service: str,
    ready: Callable[[Stack], Ready | None],
    within_s: float,
    **environment: str,
) -> Iterator[tuple[Stack, Ready]]:
    """The queue and one service, once `ready` gives something. Raises `Fatal`."""
    environment = {"PAIRWRIGHT_DATASET": settings.dataset, **environment}
    with Stack(settings, environment, services=(service,)) as stack:
        deadline = time.monotonic() + within_s
        while (answer := ready(stack)) is None:
            stack.check()
            if time.monotonic() > deadline:
                raise Fatal(f"{service} was not ready within {within_s:.0f} s; see {stack.logs}")
            time.sleep(0.2)
        yield stack, answer


def printed_json(
    command: Sequence[str], input: str | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The last line of what a Python command (`-m ...`) prints. Raises `Fatal`."""
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=ROOT, env=environment, input=input, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise Fatal(f"{' '.join(command[1:])} failed (see above)")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 1)
