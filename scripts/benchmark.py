"""What the benchmarks share: a ready service, the memory of processes, made-up pairs."""

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from scripts.stack import Stack, run_command, sentences
from shared.errors import Fatal
from shared.pairs import Pair
from shared.process import configure_logging
from shared.settings import Settings


def run(main: Callable[[], dict[str, Any]]) -> None:
    """Run a benchmark and print its result as one JSON object. A `Fatal` becomes one line on stderr."""
    configure_logging("WARNING")
    run_command("bench", main)


@contextlib.contextmanager
def running(
    settings: Settings, service: str, is_ready: Callable[[Stack], object], **environment: str
) -> Iterator[Stack]:
    """The queue and one service, once `is_ready` says something true. Raises `Fatal`."""
    with Stack(settings, {"PAIRWRIGHT_DATASET": settings.dataset, **environment}, services=(service,)) as stack:
        deadline = time.monotonic() + 300
        while not is_ready(stack):
            stack.check()
            if time.monotonic() > deadline:
                raise Fatal(f"{service} was not ready within 300 s; see {stack.logs}")
            time.sleep(0.2)
        yield stack


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 1)


def processes(pids: Iterable[int]) -> list[psutil.Process]:
    """These processes and all below them."""
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):  # it has just ended
            main = psutil.Process(pid)
            processes += [main, *main.children(recursive=True)]
    return processes


def pss_mib(process: psutil.Process) -> float:
    """Proportional set size, which counts shared pages once."""
    return float(process.memory_full_info().pss / 2**20)


def anonymous_mib(process: psutil.Process) -> float:
    """Resident memory of its own, without mapped files."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next((int(line.split()[1]) / 2**10 for line in status.splitlines() if line.startswith("RssAnon:")), 0.0)


def memory_mib(pids: Iterable[int], measure: Callable[[psutil.Process], float] = pss_mib) -> int:
    """Of these processes and all below them."""
    total = 0.0
    for process in processes(pids):
        with contextlib.suppress(psutil.Error, OSError):
            total += measure(process)
    return int(total)


@contextlib.contextmanager
def peak_memory(
    pids: Callable[[], Iterable[int]], measure: Callable[[psutil.Process], float] = pss_mib, every_s: float = 0.5
) -> Iterator[list[int]]:
    """The memory in MiB of some processes together, measured again and again until the block ends."""
    measured, end = [0], threading.Event()

    def measure_all() -> None:
        while not end.wait(every_s):
            measured.append(memory_mib(pids(), measure))

    thread = threading.Thread(target=measure_all, daemon=True)
    thread.start()
    try:
        yield measured
    finally:
        end.set()
        thread.join()


def make_pairs(count: int) -> Iterator[Pair]:
    """`count` different pairs in groups of three: nearly the same words (1), half of them (0.5), others (0)."""
    words = sorted(set(re.findall(r"[a-z]+", "\n".join(sentences()).lower())))
    generator = random.Random(0)
    for number in range(0, count, 3):
        first, other = (generator.choices(words, k=generator.randint(6, 12)) for _ in range(2))
        first.append(f"number {number}")  # no two groups are the same
        half = len(first) // 2
        near, middle = first[1:], first[:half] + other[half:]
        generator.shuffle(near)
        for score, partner in ((1.0, near), (0.5, middle), (0.0, other))[: count - number]:
            yield Pair(sentence1=" ".join(first), sentence2=" ".join(partner), score=score)
