"""How much memory this process takes: what is its own, without the pages of files that it maps."""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


class PeakMemory:
    """The most at any update."""

    def __init__(self) -> None:
        self.peak_mib = 0
        self.update()

    def update(self) -> None:
        """Measure now. Elsewhere than on Linux, mapped pages count too."""
        self.peak_mib = max(self.peak_mib, _own_kib() // 1024)


def _own_kib() -> int:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
