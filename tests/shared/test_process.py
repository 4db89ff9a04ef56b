"""What our processes do at their edges: die with their parent, and say a fatal error in one line."""

import os
import subprocess
import sys
from pathlib import Path

from shared.process import DIE_WITH_PARENT, tied_to_parent
from tests.shared.conftest import wait_until
from tests.shared.test_queue import alive

ROOT = Path(__file__).resolve().parents[2]

PARENT = """
import subprocess, sys
from shared.process import tied_to_parent
child = subprocess.Popen(tied_to_parent(["/bin/sleep", "300"]))
print(child.pid, flush=True)
child.wait()
"""


def test_a_child_dies_with_its_parent_s_sigkill() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    wait_until(lambda: not alive(child), "the child's death")


def test_the_command_keeps_its_arguments_output_and_status() -> None:
    done = subprocess.run(
        tied_to_parent(["/bin/sh", "-c", 'echo "$1"; exit 7', "sh", "two words"]), stdout=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stdout) == (7, "two words\n")


def test_a_command_whose_parent_is_gone_already_never_starts() -> None:
    other = str(os.getpid() + 1_000_000_000)
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(DIE_WITH_PARENT), other, "/bin/echo", "ran"], stdout=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")


FATAL = """
import asyncio, threading, time
from shared.process import Fatal, run
async def main():
    # An engine's thread that doesn't end: it must not hold the process open.
    threading.Thread(target=time.sleep, args=(300,)).start()
    raise Fatal("PAIRWRIGHT_PORT: in use")
run("generation", main())
"""


def test_a_fatal_error_is_one_line_and_ends_the_process_whatever_threads_run() -> None:
    done = subprocess.run([sys.executable, "-c", FATAL], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "pairwright generation: PAIRWRIGHT_PORT: in use\n")
