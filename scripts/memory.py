"""How much memory processes take."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil


def pss_mib(pids: Iterable[int]) -> int:
    """Of these processes and all below them: proportional set size, which counts shared pages once."""
    return _total(pids, lambda process: int(process.memory_full_info().pss)) // 2**20


def anonymous_mib(pids: Iterable[int]) -> int:
    """Of these processes and all below them: resident memory of their own, without mapped files."""
    return _total(pids, _anonymous_kib) // 2**10


def _total(pids: Iterable[int], measure: Callable[[psutil.Process], int]) -> int:
    processes = []
    for pid in pids:
        with suppress(psutil.Error):  # it has just ended
            main = psutil.Process(pid)
            processes += [main, *main.children(recursive=True)]
    total = 0
    for process in processes:
        with suppress(psutil.Error, OSError):
            total += measure(process)
    return total


def _anonymous_kib(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)


class PeakMemory:
    """The most memory of some processes together, measured again and again until the block ends."""

    def __init__(
        self, pids: Callable[[], Iterable[int]], measure: Callable[[Iterable[int]], int] = pss_mib, every_s: float = 0.5
    ) -> None:
        self.mib = 0
        self._pids, self._measure, self._every_s = pids, measure, every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self.mib = max(self.mib, self._measure(self._pids()))
