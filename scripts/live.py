"""What goes on in a stack, as a person sees it: in a bar or a line that changes, or line by line at no terminal."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import httpx
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status

from scripts.stack import HTTP_SERVICES, Stack
from shared.errors import Fatal
from shared.heartbeat import Heartbeats
from shared.process import ROOT, tied_to_parent
from shared.redis import command_client
from shared.stream import PairStream

Result = TypeVar("Result")
REPORT_EVERY_S = 5.0
TRIES = 3


class LiveStack:
    """A stack's clients, and what waits for its parts. Every wait ends with `Fatal` when the stack has given up."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self.stack, self.console, self.dataset = stack, console, stack.settings.dataset
        self.generation, self.embedding, self.trainer = (
            stack.client(service, timeout_s=30) for service in (*HTTP_SERVICES, "trainer")
        )
        self._reported, self._reported_at = "", -1e9

    def poll(self, call: Callable[[], Result | None], within_s: float, failure: str) -> Result:
        """The first true result of `call`. Raises `Fatal` after `within_s`, or at once when the stack has given up."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self.stack.check()
            if result := call():
                return result
            time.sleep(0.2)
        raise Fatal(f"{failure} within {within_s:g} s; see the logs in {self.stack.logs}")

    def report(self, status: Status, text: str) -> None:
        """Show what goes on: in one line that changes, or, at no terminal, as a new line every few seconds."""
        status.update(textwrap.shorten(text, self.console.width - 4, placeholder=" ..."))
        now = time.monotonic()
        if not self.console.is_terminal and text != self._reported and now - self._reported_at >= REPORT_EVERY_S:
            self._reported, self._reported_at = text, now
            self.console.print(text, markup=False, soft_wrap=True)

    def wait_until_ready(self, services: Sequence[str] = HTTP_SERVICES) -> None:
        """These services ready, and with `embedding` the untrained base published and served."""

        def is_ready() -> bool:
            waiting = {service: self.stack.not_ready(service) for service in services}
            line = "; ".join(f"{service}: {reason}" for service, reason in waiting.items() if reason)
            self.report(status, f"starting: {line}" if line else "started")
            return not line

        with self.console.status("starting") as status:
            self.poll(is_ready, 300, "the services did not become ready")

    def follow_job(self, path: str, requested: int, unit: str) -> dict[str, Any]:
        """Follow a job's events to its end, over restarts of the service. The job."""
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
        with Progress(TextColumn(unit), *columns, console=self.console) as progress:
            progress.add_task(unit, total=requested, rate="")
            return self.poll(lambda: self._events(f"{path}/events", progress), 86_400, "the job did not end")

    def _events(self, url: str, progress: Progress) -> dict[str, Any] | None:
        """The job at its end; None when the connection is lost before."""
        printed, event, shown = 0.0, "", None
        with contextlib.suppress(httpx.HTTPError), self.generation.stream("GET", url, timeout=60) as answer:
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    job: dict[str, Any] = json.loads(value)
                    progress.update(progress.task_ids[0], completed=job["accepted"], rate=_rate(job))
                    pair, is_time = job["latest"], event == "done" or time.monotonic() - printed > 2.0
                    if pair and pair != shown and is_time:
                        printed, shown = time.monotonic(), pair
                        text = f"{pair['label']:>8}  {pair['sentence1']} | {pair['sentence2']}"
                        progress.print(text, markup=False, no_wrap=True, overflow="ellipsis", crop=True)
                    if event == "done":
                        return job
        return None

    def wait_for_swap(self, version: str) -> None:
        """`/embed` answers with the version."""

        def is_served() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                answer = self.embedding.post("/embed", json={"inputs": "Hello."})
                return answer.status_code == 200 and answer.headers["x-pairwright-version"] == version
            return False

        self.poll(is_served, 120, f"/embed did not take up {version}")

    def trainer_status(self) -> dict[str, Any]:
        """The trainer's heartbeat; {} for a moment after its death, or Redis'."""
        return asyncio.run(self._trainer_status())

    async def _trainer_status(self) -> dict[str, Any]:
        async with command_client(self.stack.redis_url) as redis:
            with contextlib.suppress(RedisError, OSError):
                return await Heartbeats(redis, self.dataset).read("trainer")
        return {}

    def backlog(self) -> int | None:
        """How many pairs and passages wait for the trainer; None while Redis doesn't answer."""
        return asyncio.run(self._backlog())

    async def _backlog(self) -> int | None:
        async with command_client(self.stack.redis_url) as redis:
            with contextlib.suppress(RedisError, OSError):
                return await PairStream(redis, self.dataset).backlog()
        return None

    def run(self, *command: str, watch: Callable[[], None] = lambda: None, is_shown: bool = False) -> str:
        """Run a command of ours (`services.trainer`, `train`, ...) beside the stack; what it prints on stdout.

        It dies with us. What it writes on stderr is shown, or goes to a log. A command that somebody kills is run
        again: all of them are safe to repeat. Raises `Fatal` with its last line when it fails.
        """
        log = self.stack.logs / f"{'-'.join(command[:2]).removeprefix('services.')}.log"
        for _ in range(TRIES):
            with tempfile.TemporaryFile("w+", encoding="utf-8") as out, log.open("wb") as errors:
                words = tied_to_parent([sys.executable, "-m", *command])
                stderr = None if is_shown else errors
                process = subprocess.Popen(words, cwd=ROOT, env=self.stack.environment, stdout=out, stderr=stderr)
                self._wait(process, watch)
                out.seek(0)
                if process.returncode == 0:
                    return out.read()
            if process.returncode > 0:
                break
        lines = log.read_text(errors="replace").strip().splitlines()
        last = re.sub(r"^pairwright \w+: ", "", lines[-1]) if lines else "see above"
        raise Fatal(f"`{' '.join(command[:2])}` failed: {last}")

    def _wait(self, process: "subprocess.Popen[bytes]", watch: Callable[[], None]) -> None:
        """Until it has ended; whatever is raised meanwhile ends it."""
        try:
            while process.poll() is None:
                self.stack.check()
                watch()
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()


def _rate(job: dict[str, Any]) -> str:
    left = "" if job["eta_seconds"] is None else f", {timedelta(seconds=round(job['eta_seconds']))} left"
    waiting = f", waits: {job['waiting_for']}" if job["waiting_for"] else ""
    return f"{job['pairs_per_second'] or 0:.1f}/s{left}, {job['rejected']} samples rejected{waiting}"


def trainer_line(trainer: dict[str, Any]) -> str:
    """The trainer's heartbeat in words."""
    step = f": step {trainer['step']} of {trainer['steps']}" if trainer.get("steps") else ""
    left = f", {timedelta(seconds=round(trainer['seconds_left']))} left" if trainer.get("seconds_left") else ""
    return f"trainer: {trainer.get('state', 'no word yet')}{step}{left}"
