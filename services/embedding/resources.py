"""What this process may use: cores and memory, as the machine and the container's limits say."""

import os
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may run on, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, round(int(quota) / int(period)))
    return max(1, allowed)


def free_memory() -> int:
    """Bytes that may still be allocated; `sys.maxsize` where neither the machine nor a container's limit says."""
    limits = [1024 * size for size in _sizes(Path("/proc/meminfo"), "MemAvailable:")]
    limit, used = _read(CGROUP / "memory.max"), _read(CGROUP / "memory.current")
    if limit.isdigit() and used.isdigit():
        limits.append(int(limit) - int(used) + sum(_sizes(CGROUP / "memory.stat", "inactive_file")))  # reclaimable
    return min(limits, default=sys.maxsize)


def _sizes(file: Path, name: str) -> list[int]:
    """The numbers in the lines that begin with `name`."""
    return [int(line.split()[1]) for line in _read(file).splitlines() if line.split()[:1] == [name]]


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
