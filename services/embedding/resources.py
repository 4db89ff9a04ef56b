"""What this process may use: cores and memory, as the machine and the container's limits say."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may run on, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, round(int(quota) / int(period)))
    return max(1, allowed)


def free_memory() -> int | None:
    """Bytes that may still be allocated; None where it can't be told."""
    found = [
        int(line.split()[1]) * 1024
        for line in _read(Path("/proc/meminfo")).splitlines()
        if line.startswith("MemAvailable:")
    ]
    limit, used = _read(CGROUP / "memory.max"), _read(CGROUP / "memory.current")
    if limit.isdigit() and used.isdigit():
        reclaimable = sum(
            int(line.split()[1])
            for line in _read(CGROUP / "memory.stat").splitlines()
            if line.startswith("inactive_file ")
        )
        found.append(int(limit) - int(used) + reclaimable)
    return min(found, default=None)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
