"""The worker as its users run it: a process, looked at from outside."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from shared.heartbeat import Heartbeats
from shared.model_store import ModelStore
from shared.pairs import Pair
from shared.redis import command_client
from shared.stream import Append, Offer, PairStream
from tests.support.pairs import records

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120


def send(url: str, pairs: list[Pair], job: str = "job") -> list[Append]:
    """Offer pairs to the trainer until they are answered."""

    async def _send() -> list[Append]:
        client = command_client(url)
        offers = [Offer(record, job) for record in records(pairs)]
        stream, answers = PairStream(client, "default"), None
        while answers is None:
            with suppress(RedisError):  # the server may just have been killed: a producer tries again
                answers = await stream.append(offers)
        await client.aclose()
        return answers

    return asyncio.run(_send())


def status(url: str) -> dict[str, Any]:
    """The trainer's last heartbeat."""

    async def _read() -> dict[str, Any]:
        client = command_client(url)
        last = await Heartbeats(client, "default").read("trainer")
        await client.aclose()
        return last

    return asyncio.run(_read())


class LiveTrainer:
    """`python -m services.trainer` on a home of its own; its log lies beside that home."""

    def __init__(
        self,
        home: Path,
        redis_url: str,
        student: Path,
        settings: dict[str, object],
        arguments: Sequence[str] = (),
    ) -> None:
        own = {f"PAIRWRIGHT_TRAINER_{name.upper()}": str(value) for name, value in settings.items()}
        common = {"HOME": home, "REDIS_URL": redis_url, "STUDENT": student}
        environment = os.environ | {f"PAIRWRIGHT_{name}": str(value) for name, value in common.items()} | own
        self.store = ModelStore(home / "models" / "default")
        self._file = home / "datasets" / "default" / "pairs.sqlite"
        self._log = home.with_suffix(".log")
        self._log_before = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.trainer", *arguments],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """Of the worker."""
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything that the processes on this home have written."""
        return self._log.read_text()

    def wait_until(self, holds: Callable[[], object], what: str) -> None:
        """Wait for something that must come while the process lives."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert self._process.poll() is None, f"ended with {self._process.returncode}:\n{self.log}"
            assert time.monotonic() < deadline, f"never came: {what}\n{self.log}"
            time.sleep(0.05)

    def wait_until_collecting(self) -> None:
        """Wait until this process, not one before it on the same home, has started."""
        self.wait_until(lambda: b"collecting;" in self._log.read_bytes()[self._log_before :], "collecting")

    def query(self, question: str) -> list[tuple[object, ...]]:
        """What the dataset's file answers; nothing before it has its tables."""
        if not self._file.exists():
            return []
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=10)) as connection:
            try:
                return connection.execute(question).fetchall()
            except sqlite3.OperationalError:
                return []

    def count_pairs(self) -> int:
        """Rows in the dataset."""
        return (
            int(str(self.query("SELECT count(*) FROM pair")[0][0])) if self.query("SELECT 1 FROM pair LIMIT 1") else 0
        )

    def states(self) -> dict[object, object]:
        """Each round's state."""
        return {row[0]: row[1] for row in self.query("SELECT id, state FROM round")}

    def child(self) -> int | None:
        """The process that runs a round now, if there is one."""
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(FileNotFoundError):
                if b"round" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                    return int(child)
        return None

    @staticmethod
    def wait_until_gone(pid: int | None) -> None:
        """Wait for the end of a process that isn't our child."""
        deadline = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < deadline, f"process {pid} outlived its parent"
            time.sleep(0.02)

    def kill(self) -> None:
        """As the kernel does when memory is out."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """As systemd, Docker and Ctrl-C do; the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30)

    def wait(self) -> int:
        """The exit status of a process that ends by itself."""
        return self._process.wait(timeout=PATIENCE_S)
