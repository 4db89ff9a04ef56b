"""How much memory processes take."""

from collections.abc import Iterable

import psutil


def pss_mib(pids: Iterable[int]) -> int:
    """Of these processes and all below them: proportional set size, which counts shared pages once."""
    total = 0
    for pid in pids:
        try:
            main = psutil.Process(pid)
            total += sum(int(one.memory_full_info().pss) for one in [main, *main.children(recursive=True)])
        except psutil.Error:  # it has just ended
            continue
    return total // 2**20
