"""A child process that is started again when it ends, with back-off, and that dies with us, even on SIGKILL."""

import contextlib
import json
import logging
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.backoff import Backoff
from shared.process import ROOT, tied_to_parent

log = logging.getLogger(__name__)


class SupervisedProcess:
    """One child. Call `supervise` often, from one thread that lives as long as we do: the child is tied to it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_file: Path,
        environment: Mapping[str, str] | None = None,
        *,
        backoff: Backoff,
        healthy_after_s: float,
    ) -> None:
        """`healthy_after_s`: a process that ran for longer is restarted with the first pause again."""
        self.name, self.log_file = name, log_file
        self.process: subprocess.Popen[bytes] | None = None
        self.error: str | None = None
        """How it ended last, or why it could not start."""
        self._command, self._environment = command, environment
        self._backoff, self._healthy_after_s = backoff, healthy_after_s
        self._started = self._start_at = 0.0
        self.restarts = self._quick_failures = 0

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        process = self.process  # another thread may take it away
        return None if process is None else process.pid

    @property
    def hopeless(self) -> bool:
        """Whether it ended three times in a row, soon after its start, with an error as its exit status."""
        return self._quick_failures >= 3

    def supervise(self) -> None:
        """Start the process if it isn't running and its time has come."""
        if self.process is None:
            if time.monotonic() >= self._start_at:
                self._start()
        elif self.process.poll() is not None:
            self._plan_restart(self.process.returncode)

    def last_log_line(self) -> str:
        """The last line of its log."""
        lines = self.log_file.read_text(errors="replace").strip().splitlines() if self.log_file.exists() else []
        if not lines:
            return f"no word in {self.log_file}"
        with contextlib.suppress(ValueError, KeyError, TypeError):  # PAIRWRIGHT_LOG_FORMAT=json
            return str(json.loads(lines[-1])["message"])
        return lines[-1].removeprefix(f"pairwright {self.name}: ")

    def terminate(self) -> None:
        """Ask it to end."""
        if self.process is not None:
            self.process.terminate()

    def end(self, within_s: float) -> None:
        """Wait so long for its end, then kill it."""
        if self.process is not None:
            try:
                self.process.wait(timeout=max(0.1, within_s))
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _start(self) -> None:
        self._started = time.monotonic()
        try:
            with self.log_file.open("ab") as output:
                self.process = subprocess.Popen(
                    tied_to_parent(self._command),
                    stdout=output,
                    stderr=output,
                    stdin=subprocess.DEVNULL,
                    cwd=ROOT,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C is for us: we end the children in order
                )
        except OSError as error:
            self._restart_later(str(error))

    def _plan_restart(self, status: int) -> None:
        self.process = None
        if time.monotonic() - self._started > self._healthy_after_s:
            self._backoff.reset()
            self._quick_failures = 0
        self._quick_failures = self._quick_failures + 1 if status > 0 else 0
        names = {number.value: number.name for number in signal.Signals}  # most real-time signals have none
        self._restart_later(f"exit status {status}" if status >= 0 else f"signal {names.get(-status, -status)}")

    def _restart_later(self, error: str) -> None:
        pause, self.error = self._backoff.next_s(), error
        self.restarts += 1
        self._start_at = time.monotonic() + pause
        log.warning("%s ended (%s); starting it again in %.1f s", self.name, error, pause)
