"""The servers that are compared: how each is installed and started. Only one runs at a time; the others are stopped."""

import contextlib
import dataclasses
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from scripts.embedding_bench.load import Plan
from scripts.embedding_bench.texts import Lengths
from scripts.memory import pss_mib
from shared.process import ROOT

INFINITY = "infinity-emb[server,torch]==0.0.78"
START_WITHIN_S = 240.0
OPENAI_BODY = {"model": "m", "encoding_format": "float"}


class Unavailable(Exception):
    """This server can't be measured here; the message says why."""


@dataclass
class Server:
    """A running server and how it is asked."""

    name: str
    process: "subprocess.Popen[bytes]"
    base: str
    path: str
    field: str
    """What the server calls its inputs."""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Other fields of the body."""

    def plan(self, inputs: int, connections: int, lengths: Lengths, seconds: float) -> Plan:
        """A measurement of this server."""
        return Plan(self.base + self.path, self.field, inputs, connections, lengths, seconds, self.extra)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run; afterwards it is stopped, so that it takes nothing from the one that is measured."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def rss_mib(self) -> int:
        """Memory of all its processes: proportional set size, which counts shared pages once."""
        return pss_mib([self.process.pid])

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        main = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in [main, *main.children(recursive=True)]]
        return float(sum(one.user + one.system for one in times))

    def end(self) -> None:
        """Kill its whole session."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def start(
    name: str, command: Sequence[str], port: int, logs: Path, *, health: str = "/health", path: str = "/embed",
    field: str = "inputs", environment: Mapping[str, str] | None = None, extra: Mapping[str, Any] | None = None,
) -> Server:  # fmt: skip
    """Start a server and wait until it is healthy. Raises `Unavailable`."""
    log = logs / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"} | dict(environment or {}),
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    server = Server(name, process, f"http://127.0.0.1:{port}", path, field, dict(extra or {}))
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(server.base + health, timeout=5).status_code == 200:
                return server
        time.sleep(0.3)
    server.end()
    raise Unavailable(f"did not start: {_last_line(log.read_text(errors='replace'))}")


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no output"])[-1][:200]


def ours(home: Path, logs: Path, port: int, name: str = "ours", **settings: str) -> Server:
    """This project's service, on versions that are published in `home`."""
    environment = {
        f"PAIRWRIGHT_EMBEDDING_{key}".upper(): value for key, value in {"port": str(port), **settings}.items()
    }
    command = [sys.executable, "-m", "services.embedding"]
    return start(name, command, port, logs, health="/readyz", environment={"PAIRWRIGHT_HOME": str(home)} | environment)


def naive(model: Path, logs: Path, port: int) -> Server:
    """FastAPI around `encode`."""
    return start("naive", [sys.executable, "-m", "scripts.embedding_bench.naive", str(model), str(port)], port, logs)


def vllm(model: Path, logs: Path, port: int) -> Server:
    """vLLM's pooling server out of this project's own environment, in float32 on all cores."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
               "--runner", "pooling", "--max-model-len", "256", "--disable-uvicorn-access-log",
               *_common_options(port)]  # fmt: skip
    cores = f"0-{(os.cpu_count() or 1) - 1}"  # its default leaves one core to its front end
    environment = {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return start("vllm", command, port, logs, path="/v1/embeddings", field="input", environment=environment,
                 extra=OPENAI_BODY)  # fmt: skip


def infinity(model: Path, cache: Path, logs: Path, port: int) -> Server:
    """infinity in an environment of its own, because it wants sentence-transformers < 4."""
    environment = cache / "infinity"
    program = environment / "bin" / "infinity_emb"
    if not program.is_file():
        torch = importlib.metadata.version("torch")
        for step in (
            [sys.executable, "-m", "venv", str(environment)],
            [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", f"torch=={torch}", INFINITY],
        ):
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unavailable(f"did not install: {_last_line(done.stderr)}")
    command = [str(program), "v2", "--model-id", str(model), "--engine", "torch", "--device", "cpu",
               "--no-bettertransformer", "--log-level", "warning", *_common_options(port)]  # fmt: skip
    return start("infinity", command, port, logs, path="/embeddings", field="input", extra=OPENAI_BODY,
                 environment={"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"})  # fmt: skip


def _common_options(port: int) -> list[str]:
    return ["--dtype", "float32", "--served-model-name", "m", "--port", str(port), "--host", "127.0.0.1"]
