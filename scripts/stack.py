"""The whole system on one machine: the queue and the three services as supervised child processes.

What dies is started again, with back-off. Everything dies with this process, even on SIGKILL. Accepted pairs survive
all of it, because they are on disk before they are counted.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Self

import httpx
from redis import Redis
from redis.exceptions import RedisError

from shared.backoff import Backoff
from shared.errors import Fatal
from shared.ports import port, port_setting
from shared.queue import EmbeddedServer
from shared.settings import Settings
from shared.supervisor import SupervisedProcess

SERVICES = ("trainer", "embedding", "generation")
HTTP_SERVICES = {"generation", "embedding"}
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.5, 30.0
HEALTHY_AFTER_S = 60.0
STOP_WITHIN_S = 20.0


class Stack:
    """Queue and services as child processes. Use as a context manager; `error` is why it gave up, if it did."""

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str] | None = None,
        services: Sequence[str] = SERVICES,
    ) -> None:
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
        self.error: str | None = None
        self._stopping = threading.Event()
        self._children = {name: self._child(name) for name in services}
        # Children are tied to the thread that starts them: one thread starts them all and lives as long as we do.
        self._supervisor = threading.Thread(target=self._supervise, name="stack", daemon=True)

    def url(self, service: str) -> str:
        """Where an HTTP service of this stack answers."""
        host = self.environment.get(f"PAIRWRIGHT_{service.upper()}_HOST", "127.0.0.1")
        return f"http://{host}:{port(service, self.environment)}"

    def pids(self) -> dict[str, int]:
        """The process ids of the services, and of the queue if it is ours."""
        pids = {name: child.pid for name, child in self._children.items() if child.pid is not None}
        if self._queue is not None and self._queue.process.pid is not None:
            pids["queue"] = self._queue.process.pid
        return pids

    def __enter__(self) -> Self:
        for service in HTTP_SERVICES & self._children.keys():
            self._require_free_port(service)
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

    def _require_free_port(self, service: str) -> None:
        number = port(service, self.environment)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError as error:
                advice = f"Free it or set {port_setting(service)}."
                raise Fatal(f"port {number} for {service}: {error.strerror}. {advice}") from None

    def _supervise(self) -> None:
        while not self._stopping.wait(0.1):
            for child in self._children.values():
                child.supervise()
                if child.hopeless and self.error is None:
                    self.error = f"{child.name} can't start: {child.last_log_line()}"
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + STOP_WITHIN_S
        for child in self._children.values():
            child.end(deadline - time.monotonic())

    def _child(self, service: str) -> SupervisedProcess:
        return SupervisedProcess(
            service,
            [sys.executable, "-m", f"services.{service}"],
            self.logs / f"{service}.log",
            self.environment,
            backoff=Backoff(FIRST_BACKOFF_S, LAST_BACKOFF_S),
            healthy_after_s=HEALTHY_AFTER_S,
        )


def _require_answer(redis_url: str) -> None:
    """Raise `Fatal` if no Redis answers there. The password stays out of the message."""
    try:
        with Redis.from_url(redis_url, socket_timeout=5, socket_connect_timeout=5) as client:
            client.ping()
    except (RedisError, OSError, ValueError) as error:
        where = redis_url.rpartition("@")[2]
        raise Fatal(f"PAIRWRIGHT_REDIS_URL: no Redis answers at {where}: {error}") from None
