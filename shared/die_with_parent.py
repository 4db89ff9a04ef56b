"""Run as a file: `die_with_parent.py PARENT_PID COMMAND...` becomes COMMAND and is killed when its parent dies.

It stands alone, without our packages, because it runs before them (`python -S -E`) and must start in milliseconds.
"""

import ctypes
import os
import signal
import sys


def die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL at the parent's death (the request survives exec)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        # The parent may have died before the request: then nobody would ever send the signal.
        if os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
