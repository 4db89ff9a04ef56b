"""Supervised child processes: restarted with back-off, given up when hopeless, ended in time."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.backoff import Backoff
from shared.supervisor import SupervisedProcess
from tests.shared.conftest import wait_until
from tests.shared.test_queue import alive

Make = Callable[..., SupervisedProcess]


@pytest.fixture
def child(tmp_path: Path) -> Make:
    """Makes a child that runs a shell script, with pauses of milliseconds."""

    def make(script: str, *, first_s: float = 0.01, healthy_after_s: float = 60.0) -> SupervisedProcess:
        command = ["/bin/sh", "-c", script]
        backoff = Backoff(first_s, 10.0)
        log_file = tmp_path / "child.log"
        return SupervisedProcess("child", command, log_file, backoff=backoff, healthy_after_s=healthy_after_s)

    return make


def supervise_until(child: SupervisedProcess, condition: Callable[[], bool], what: str) -> None:
    def supervised() -> bool:
        child.supervise()
        return condition()

    wait_until(supervised, what)


def test_a_killed_child_is_started_again(child: Make) -> None:
    sleeper = child("exec sleep 300")
    assert sleeper.pid is None
    for kill in range(1, 5):
        supervise_until(sleeper, lambda: sleeper.pid is not None, "the start")
        pid = sleeper.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        supervise_until(sleeper, lambda kill=kill: sleeper.restarts == kill, "the restart")
        assert sleeper.error == "signal SIGKILL"
    assert not sleeper.hopeless, "a kill says nothing about the child"
    sleeper.end(0)


def test_a_signal_without_a_name_ends_no_supervision(child: Make) -> None:
    number = signal.SIGRTMIN + 5
    restarted = child(f"kill -{number} $$; sleep 300")
    supervise_until(restarted, lambda: restarted.restarts == 1, "its end")
    assert restarted.error == f"signal {number}"


def test_three_quick_failures_are_hopeless(child: Make, tmp_path: Path) -> None:
    broken = child("echo 'pairwright child: PORT: in use' >&2; exit 7")
    assert broken.last_log_line() == f"no word in {tmp_path / 'child.log'}"
    supervise_until(broken, lambda: broken.hopeless, "giving up")
    assert (broken.restarts, broken.error, broken.last_log_line()) == (3, "exit status 7", "PORT: in use")


def test_the_last_line_of_a_json_log_is_its_message(child: Make) -> None:
    broken = child("""echo '{"level": "CRITICAL", "message": "PORT: in use"}'; exit 1""")
    supervise_until(broken, lambda: broken.restarts == 1, "its end")
    assert broken.last_log_line() == "PORT: in use"


@pytest.mark.slow
def test_failures_after_a_healthy_life_are_not_counted(child: Make) -> None:
    flaky = child("sleep 0.05; exit 1", healthy_after_s=0.01)
    supervise_until(flaky, lambda: flaky.restarts == 5, "five restarts")
    assert not flaky.hopeless


def test_the_pause_grows(child: Make) -> None:
    broken = child("exit 1", first_s=0.2)
    began = time.monotonic()
    supervise_until(broken, lambda: broken.restarts == 3, "three failures")
    assert time.monotonic() - began >= 0.1 + 0.2


def test_a_command_that_can_t_be_started_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    child = SupervisedProcess("child", ["/bin/sleep", "300"], folder / "log", backoff=Backoff(0.01), healthy_after_s=60)
    supervise_until(child, lambda: child.restarts == 2, "two attempts")
    assert "No such file" in (child.error or "")
    folder.mkdir()
    supervise_until(child, lambda: child.pid is not None, "the start")
    child.end(0)


def test_ending_waits_and_then_kills(child: Make) -> None:
    obedient, stubborn = child("exec sleep 300"), child("trap '' TERM; echo ready; while true; do sleep 0.1; done")
    for one in (obedient, stubborn):
        one.end(0)  # nothing runs yet
        supervise_until(one, lambda one=one: one.pid is not None, "the start")  # type: ignore[misc]
    wait_until(lambda: stubborn.log_file.exists() and "ready" in stubborn.log_file.read_text(), "its trap")
    pids = [one.pid or 0 for one in (obedient, stubborn)]
    for one in (obedient, stubborn):
        one.terminate()
        one.end(0.3)
    assert [one.process and one.process.returncode for one in (obedient, stubborn)] == [
        -signal.SIGTERM,
        -signal.SIGKILL,
    ]
    assert not any(map(alive, pids))
