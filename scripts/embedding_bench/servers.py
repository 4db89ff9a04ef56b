"""The servers that are compared: how each is installed and started. Only one runs at a time; the others are stopped."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from scripts.benchmark import processes
from scripts.stack import printed_json
from shared.errors import Fatal
from shared.process import ROOT

INFINITY = "infinity-emb[server,torch]==0.0.78"
PORTS = count(18_300)


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
    start_s: float = 0.0
    """From its start to its first healthy answer, imports and loading included."""

    def measure(self, **plan: Any) -> dict[str, float]:
        """Run the load generator: requests, requests_s, sentences_s, p50_ms, p99_ms, failed. `plan`: its arguments."""
        plan |= {"url": self.base + self.path, "field": self.field, "extra": self.extra}
        return printed_json(["-m", "scripts.embedding_bench.load"], input=json.dumps(plan))

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run; afterwards it is stopped, so that it takes nothing from the one that is measured."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        times = [process.cpu_times() for process in processes([self.process.pid])]
        return float(sum(one.user + one.system for one in times))

    def close(self) -> None:
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
    name: str, command: Sequence[str], port: int, logs: Path, path: str = "/embed", field: str = "inputs",
    environment: Mapping[str, str] | None = None, extra: Mapping[str, Any] | None = None, health: str = "/health",
) -> Server:  # fmt: skip
    """Start a server and wait until it is healthy. Raises `Fatal`."""
    log, environment = logs / f"{name}.log", {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = Server(name, process, f"http://127.0.0.1:{port}", path, field, dict(extra or {}))
    began = time.monotonic()
    deadline = began + 240
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(server.base + health, timeout=5).status_code == 200:
                server.start_s = time.monotonic() - began
                return server
        time.sleep(0.1)
    server.close()
    raise Fatal(f"did not start: {_last_line(log.read_text(errors='replace'))}")


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no output"])[-1][:200]


def ours(home: Path, logs: Path, name: str = "ours", **settings: str) -> Server:
    """This project's service, on versions that are published in `home`, without its cache."""
    port, command = next(PORTS), [sys.executable, "-m", "services.embedding"]
    settings |= {"port": str(port), "cache_mib": "0"}
    environment = {f"PAIRWRIGHT_EMBEDDING_{key.upper()}": value for key, value in settings.items()}
    return start(name, command, port, logs, health="/readyz", environment={"PAIRWRIGHT_HOME": str(home)} | environment)


def naive(model: Path, logs: Path) -> Server:
    """FastAPI around `encode`."""
    port = next(PORTS)
    return start("naive", [sys.executable, "-m", "scripts.embedding_bench.naive", str(model), str(port)], port, logs)


def vllm(model: Path, logs: Path) -> Server:
    """vLLM's pooling server out of this project's own environment, in float32 on all cores."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    cores = f"0-{(os.cpu_count() or 1) - 1}"  # its default leaves one core to its front end
    environment = {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    options = ["--runner", "pooling", "--max-model-len", "256", "--disable-uvicorn-access-log"]
    return _start_openai("vllm", [*command, *options], logs, "/v1/embeddings", environment)


def infinity(model: Path, cache: Path, logs: Path) -> Server:
    """infinity in an environment of its own, because it wants sentence-transformers < 4."""
    folder = cache / "infinity"
    program = folder / "bin" / "infinity_emb"
    if not program.is_file():
        requirements = [f"torch=={importlib.metadata.version('torch')}", INFINITY]
        for step in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *requirements],
        ):
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Fatal(f"did not install: {_last_line(done.stderr)}")
    command = [str(program), "v2", "--model-id", str(model), "--engine", "torch", "--device", "cpu"]
    environment = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"}
    options = ["--no-bettertransformer", "--log-level", "warning"]
    return _start_openai("infinity", [*command, *options], logs, "/embeddings", environment)


def _start_openai(name: str, command: list[str], logs: Path, path: str, environment: dict[str, str]) -> Server:
    """A server that speaks OpenAI's form of `path`."""
    port = next(PORTS)
    options = ["--dtype", "float32", "--served-model-name", "m", "--port", str(port), "--host", "127.0.0.1"]
    extra = {"model": "m", "encoding_format": "float"}
    return start(name, [*command, *options], port, logs, path, "input", environment, extra)
