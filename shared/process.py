"""What every process of ours does at its edges: logging, one-line fatal errors, and dying with its parent."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from shared.errors import Fatal
from shared.logs import JsonFormatter

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LogFormat = Literal["human", "json"]

ROOT = Path(__file__).resolve().parents[1]
"""The repository: the code is run from here and never installed."""
DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")


def configure_logging(level: str, form: LogFormat = "human", service: str = "pairwright") -> None:
    """Log to stderr, one line an event; from libraries, only warnings and errors."""
    handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(JsonFormatter(service))
        logging.captureWarnings(True)
        # What else is written there is no JSON: vLLM's own handler, and libraries' progress bars.
        os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
        os.environ.setdefault("TQDM_DISABLE", "1")
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for ours in ("services", "shared", "scripts"):
        logging.getLogger(ours).setLevel(level)


def claim_stdout() -> TextIO:
    """Our own handle on stdout. Whatever libraries print goes to stderr from now on and tears no line of ours."""
    sys.stdout.flush()
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return ours


def disable_openmp_spinning() -> None:
    """Have OpenMP's threads sleep, not spin, while they wait for each other. Call it before torch is imported.

    Spinning uses up the cores' time: on two cores with a load of 6, generation was measured 8 times slower with it.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def run(name: str, main: Coroutine[Any, Any, None], loop_factory: LoopFactory | None = None) -> None:
    """Run `main` to its end; a `Fatal` becomes one line on stderr and exit status 1."""
    with fatal_in_one_line(name), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)


@contextlib.contextmanager
def fatal_in_one_line(name: str) -> Iterator[None]:
    """A `Fatal` inside ends the process as `exit_with` does, Ctrl-C with exit status 130."""
    try:
        yield
    except Fatal as fatal:
        exit_with(name, fatal)
    except KeyboardInterrupt:
        sys.exit(130)


def exit_with(name: str, fatal: Fatal) -> None:
    """Write `fatal` as one line to stderr and end the process, whatever threads still run."""
    sys.stdout.flush()
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.root.handlers):
        logging.getLogger(f"services.{name}").critical("%s", fatal)
    else:
        sys.stderr.write(f"pairwright {name}: {fatal}\n")
    sys.stderr.flush()
    # Not sys.exit: an engine thread inside native code would hold the interpreter open.
    os._exit(1)


def tied_to_parent(command: Sequence[str]) -> list[str]:
    """`command`, wrapped so that the kernel kills it when the *thread* that starts it dies, even by SIGKILL."""
    # -P: `queue` and `http` beside the script must not stand in for the standard library's.
    return [sys.executable, "-S", "-E", "-P", str(DIE_WITH_PARENT), str(os.getpid()), *command]
