"""The whole system on one machine: the queue and the three services as supervised child processes.

What dies is started again, with back-off. Everything dies with this process, even on SIGKILL. And what `make` commands
that use it share.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
from redis import Redis
from redis.exceptions import RedisError

from shared.backoff import Backoff
from shared.errors import Fatal
from shared.ports import port, port_setting
from shared.process import ROOT, fatal_in_one_line
from shared.queue import EmbeddedServer
from shared.settings import Settings
from shared.supervisor import SupervisedProcess

SERVICES = ("trainer", "embedding", "generation")
HTTP_SERVICES = ("generation", "embedding")


class Stack:
    """Queue and services as child processes. Use as a context manager; `error` is why it gave up, if it did."""

    def __init__(
        self, settings: Settings, environment: Mapping[str, str] | None = None, services: Sequence[str] = SERVICES
    ) -> None:
        self.settings, self.home = settings, settings.home.expanduser().resolve()
        self.logs = self.home / "logs"
        self._queue = None if settings.redis_url else EmbeddedServer(settings.queue_dir)
        self.redis_url = settings.redis_url or (self._queue.url if self._queue else "")
        own = {"PAIRWRIGHT_HOME": str(self.home), "PAIRWRIGHT_REDIS_URL": self.redis_url, "PYTHONUNBUFFERED": "1"}
        self.environment = {**os.environ, **(environment or {}), **own}
        for service in SERVICES:
            if not self.environment.get(f"PAIRWRIGHT_{service.upper()}_URL"):
                self.environment[f"PAIRWRIGHT_{service.upper()}_URL"] = self.url(service)
        self.error: str | None = None
        self._stopping = threading.Event()
        self._children: list[SupervisedProcess] = []
        for name in services:
            command, log = [sys.executable, "-m", f"services.{name}"], self.logs / f"{name}.log"
            child = SupervisedProcess(
                name, command, log, self.environment, backoff=Backoff(0.5, 30), healthy_after_s=60
            )
            self._children.append(child)
        # Children are tied to the thread that starts them: one thread starts them all and lives as long as we do.
        self._supervisor = threading.Thread(target=self._supervise, name="stack", daemon=True)

    def url(self, service: str) -> str:
        """Where an HTTP service of this stack answers."""
        host = self.environment.get(f"PAIRWRIGHT_{service.upper()}_HOST", "127.0.0.1")
        return f"http://{host}:{port(service, self.environment)}"

    def client(self, service: str, timeout_s: float) -> httpx.Client:
        """A client of an HTTP service, with a key if keys are set."""
        keys = {"Authorization": f"Bearer {self.settings.keys[0]}"} if self.settings.keys else {}
        return httpx.Client(base_url=self.url(service), headers=keys, timeout=timeout_s)

    def pids(self) -> list[int]:
        """The process ids of the services, and of the queue if it is ours."""
        return [pid for part in (*self._children, self._queue and self._queue.process) if part and (pid := part.pid)]

    def __enter__(self) -> Self:
        for child in self._children:
            if child.name in HTTP_SERVICES:
                _require_free_port(child.name, port(child.name, self.environment))
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Fatal(f"PAIRWRIGHT_HOME: can't write to {self.home}: {error.strerror}") from error
        if self._queue is not None:
            self._queue.start()
        else:
            _require_answer(self.redis_url)
        self._supervisor.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._supervisor.join()
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
        if self.error is not None:
            raise Fatal(self.error)

    def _supervise(self) -> None:
        while not self._stopping.wait(0.1):
            for child in self._children:
                child.supervise()
                if child.hopeless and self.error is None:
                    self.error = f"{child.name} can't start: {child.last_log_line()}"
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + 20.0
        for child in self._children:
            child.end(deadline - time.monotonic())


def _require_free_port(service: str, number: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            advice = f"Free it or set {port_setting(service)}."
            raise Fatal(f"port {number} for {service}: {error.strerror}. {advice}") from None


def _require_answer(redis_url: str) -> None:
    """Raise `Fatal` if no Redis answers there. The password stays out of the message."""
    try:
        with Redis.from_url(redis_url, socket_timeout=5, socket_connect_timeout=5) as client:
            client.ping()
    except (RedisError, OSError, ValueError) as error:
        where = redis_url.rpartition("@")[2]
        raise Fatal(f"PAIRWRIGHT_REDIS_URL: no Redis answers at {where}: {error}") from None


def prepare_teacher() -> None:
    """Convert the default teacher now, where its progress can be seen, and not inside a service. Raises `Fatal`."""
    if subprocess.run([sys.executable, "-m", "shared.teacher"], cwd=ROOT).returncode:
        raise Fatal("the teacher is not usable (see above)")


def sentences() -> list[str]:
    """The demo's first sentences, which the benches take too."""
    return Path(__file__).with_name("demo_sentences.txt").read_text(encoding="utf-8").splitlines()


def printed_json(
    command: Sequence[str], input: str | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The last line of what a Python command (`-m ...`) prints. Raises `Fatal`."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, input=input, text=True, stdout=subprocess.PIPE
    )
    if done.returncode:
        raise Fatal(f"{' '.join(command)} failed (see above)")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_command(name: str, main: Callable[[], dict[str, Any] | None]) -> None:
    """Run `main` and print its result, if any, as one JSON object. A `Fatal` becomes one line on stderr."""
    with fatal_in_one_line(name):
        result = main()
        if result is not None:
            print(json.dumps(result), flush=True)
