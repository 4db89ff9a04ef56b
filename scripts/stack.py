"""The whole system on one machine: the queue and the three services under one watch.

Whatever dies is started again, with back-off; everything dies with this process, even on SIGKILL. Accepted pairs
survive all of it, because they are on disk before they are counted.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx
from redis import Redis
from redis.exceptions import RedisError

from shared.process import Fatal, with_lifeline
from shared.queue import EmbeddedServer
from shared.settings import Settings

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ("trainer", "embedding", "generation")
DEFAULT_PORTS = {"generation": 8001, "embedding": 8002}
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.5, 30.0
HEALTHY_AFTER_S = 60.0
STOP_WITHIN_S = 20.0


class Stack:
    """Queue and services as child processes. Use as a context manager; `fault` tells why it gave up, if it did."""

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str] | None = None,
        services: Sequence[str] = SERVICES,
    ) -> None:
        self._services = services
        self.home = settings.home.expanduser().resolve()
        self.logs = self.home / "logs"
        self._queue = None if settings.redis_url else EmbeddedServer(settings.queue_dir)
        self.redis_url = settings.redis_url or (self._queue.url if self._queue else "")
        self.environment = {
            **os.environ,
            **(environment or {}),
            "PAIRWRIGHT_HOME": str(self.home),
            "PAIRWRIGHT_REDIS_URL": self.redis_url,
            "PYTHONUNBUFFERED": "1",
        }
        self.fault: str | None = None
        self._stopping = threading.Event()
        self._children: dict[str, _Child] = {}
        # Children are tied to the thread that starts them: one thread starts them all and lives as long as we do.
        self._watcher = threading.Thread(target=self._watch, name="stack", daemon=True)

    def url(self, service: str) -> str:
        """Where an HTTP service of this stack answers."""
        host = self.environment.get(f"PAIRWRIGHT_{service.upper()}_HOST", "127.0.0.1")
        return f"http://{host}:{self._port(service)}"

    def pids(self) -> dict[str, int]:
        """The process ids of the services, and of the queue if it is ours."""
        pids = {name: child.process.pid for name, child in self._children.items() if child.process is not None}
        if self._queue is not None and self._queue.pid is not None:
            pids["queue"] = self._queue.pid
        return pids

    def __enter__(self) -> Self:
        for service in DEFAULT_PORTS.keys() & set(self._services):
            self._require_free_port(service)
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Fatal(f"PAIRWRIGHT_HOME: can't write to {self.home}: {error.strerror}") from error
        if self._queue is not None:
            self._queue.start()
        else:
            _require_answer(self.redis_url)
        self._watcher.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._watcher.join()
        if self._queue is not None:
            self._queue.stop()

    def not_ready(self, service: str) -> str:
        """What keeps an HTTP service from being ready; "" when nothing does."""
        try:
            answer = httpx.get(f"{self.url(service)}/readyz", timeout=10)
        except httpx.HTTPError:
            return "not listening yet"
        checks = answer.json().get("checks", {})
        down = ", ".join(f"{name} {state}" for name, state in checks.items() if not state.startswith("ok"))
        return "" if answer.status_code == 200 else down or "not ready"

    def check(self) -> None:
        """Raise `Fatal` if a service can't be kept running."""
        if self.fault is not None:
            raise Fatal(self.fault)

    def _port(self, service: str) -> int:
        return int(self.environment.get(f"PAIRWRIGHT_{service.upper()}_PORT") or DEFAULT_PORTS[service])

    def _require_free_port(self, service: str) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self._port(service)))
            except OSError as error:
                setting = f"PAIRWRIGHT_{service.upper()}_PORT"
                raise Fatal(
                    f"port {self._port(service)} for {service}: {error.strerror}. Free it or set {setting}."
                ) from None

    def _watch(self) -> None:
        self._children = {name: _Child(name, self.logs / f"{name}.log", self.environment) for name in self._services}
        while not self._stopping.wait(0.1):
            for child in self._children.values():
                child.look_after()
                if child.hopeless and self.fault is None:
                    self.fault = f"{child.name} can't start: {child.last_words()}"
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + STOP_WITHIN_S
        for child in self._children.values():
            child.end(deadline)


def _require_answer(redis_url: str) -> None:
    """Raise `Fatal` if no Redis answers there. The password stays out of the message."""
    try:
        with Redis.from_url(redis_url, socket_timeout=5, socket_connect_timeout=5) as client:
            client.ping()
    except (RedisError, OSError, ValueError) as error:
        where = redis_url.rpartition("@")[2]
        raise Fatal(f"PAIRWRIGHT_REDIS_URL: no Redis answers at {where}: {error}") from None


class _Child:
    """One service's process, started again when it ends."""

    def __init__(self, name: str, log_file: Path, environment: Mapping[str, str]) -> None:
        self.name, self.log_file, self.environment = name, log_file, environment
        self.process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._backoff = FIRST_BACKOFF_S
        self._quick_failures = 0

    @property
    def hopeless(self) -> bool:
        """It said by its exit status, three times in a row and soon after its start, that it can't run."""
        return self._quick_failures >= 3

    def look_after(self) -> None:
        """Start the process if it isn't running and its time has come."""
        if self.process is None:
            if time.monotonic() >= self._start_at:
                self._start()
        elif self.process.poll() is not None:
            self._plan_restart(self.process.returncode)
            self.process = None

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log_file.read_text(errors="replace").strip().splitlines() if self.log_file.exists() else []
        if not lines:
            return f"no word in {self.log_file}"
        with contextlib.suppress(ValueError, KeyError, TypeError):  # PAIRWRIGHT_LOG_FORMAT=json
            return str(json.loads(lines[-1])["message"])
        return lines[-1].removeprefix(f"pairwright {self.name}: ")

    def terminate(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def end(self, deadline: float) -> None:
        """Wait until `deadline`, then kill."""
        if self.process is None:
            return
        try:
            self.process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _start(self) -> None:
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                with_lifeline([sys.executable, "-m", f"services.{self.name}"]),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=dict(self.environment),
                start_new_session=True,  # Ctrl-C is for us: we end the children in order
            )
        self._started = time.monotonic()

    def _plan_restart(self, status: int) -> None:
        lived = time.monotonic() - self._started
        if lived > HEALTHY_AFTER_S:
            self._backoff, self._quick_failures = FIRST_BACKOFF_S, 0
        self._quick_failures = self._quick_failures + 1 if status > 0 else 0
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        log.warning("%s ended (%s); starting it again in %.1f s", self.name, how, self._backoff)
        self._start_at = time.monotonic() + self._backoff
        self._backoff = min(self._backoff * 2, LAST_BACKOFF_S)
