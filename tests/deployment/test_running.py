"""The compose file's `cpu` profile as processes: each container's own command, environment, files and health check.

What an engine would add is left out: namespaces, limits, the images themselves. Paths inside a container lie in a
folder of its own, where only its volumes, its secrets and /tmp may be written.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from redis.exceptions import RedisError

from shared.queue import binary
from tests.support.deployment_files import ROOT, compose, mounts, service_of, stages, started
from tests.support.ports import free_port
from tests.support.tiny_teacher import make_tiny_teacher
from tests.support.versions import static_student

KEY = "a-key-of-this-test"
HEALTHY_WITHIN_S = 120.0


class Container:
    """One service of the compose file, as a process that sees `folder` as its root."""

    def __init__(self, name: str, service: Mapping[str, Any], folder: Path, dotenv: Mapping[str, str]) -> None:
        self.name, self.service, self.root = name, service, folder / "roots" / name
        (self.root / "tmp").mkdir(parents=True)
        for target, (volume, _) in mounts(service).items():
            self._link(target, folder / "volumes" / volume)
        self._secrets = self.root / "run" / "secrets"
        self._secrets.mkdir(parents=True)
        for secret in service.get("secrets", []):  # an engine mounts each file; a link out of the folder isn't read
            os.link(folder / "secrets" / secret, self._secrets / secret)
        self._dotenv = dotenv
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def _link(self, target: str, source: Path) -> None:
        inside = self.root / target.lstrip("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            source.mkdir(parents=True)
        inside.symlink_to(source)

    def environment(self) -> dict[str, str]:
        """As an engine puts it together: the image's, `.env`, the compose file's; its paths and addresses made ours."""
        image = stages()[self.name].environment if "build" in self.service else {}
        variables = image | dict(self._dotenv) | dict(self.service.get("environment", {}))
        variables |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        inside = {"HOME", *(name for name, value in variables.items() if value.startswith(("/data", "/cache", "/run")))}
        variables |= {name: f"{self.root}{variables[name]}" for name in inside if name in variables}
        return variables

    def start(self) -> None:
        """The service's command."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command(), cwd=ROOT, env=self.environment(), stdout=log, stderr=log)

    def command(self) -> list[str]:
        program, *arguments = self.service["command"]
        assert program == "python3"
        return [sys.executable, *arguments]

    def healthy(self) -> bool:
        """What its health check says."""
        kind, program, *arguments = self.service["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python3")
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=self.environment(), capture_output=True)
        return done.returncode == 0

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while not self.healthy():
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(1)

    def stop(self) -> int:
        """As `docker compose stop` does; killed, and told so by the status, after the grace period."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(float(self.service["stop_grace_period"].removesuffix("s")))
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def written_elsewhere(self) -> list[Path]:
        """Files where a container's file system can't be written to."""
        files = (path for path in self.root.rglob("*") if not path.is_dir() and not path.is_symlink())
        allowed = (self.root / "tmp", self._secrets)
        return [path for path in files if not any(path.is_relative_to(folder) for folder in allowed)]


class Queue(Container):
    """Redis, with the server that the tests have; it brings no client program for the health check's `ping`."""

    def __init__(self, name: str, service: Mapping[str, Any], folder: Path, port: int) -> None:
        super().__init__(name, service, folder, {})
        self._port = port

    def command(self) -> list[str]:
        program, *arguments = self.service["command"]
        assert program == "valkey-server"
        return [
            str(binary()),
            *arguments,
            "--port",
            str(self._port),
            "--dir",
            f"{self.root}/data",
            "--bind",
            "127.0.0.1",
        ]

    def healthy(self) -> bool:
        assert self.service["healthcheck"]["test"] == ["CMD", "valkey-cli", "ping"]
        try:
            with Redis(port=self._port) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False


class Stack:
    """Starts containers in the order that the compose file asks for."""

    def __init__(self, folder: Path) -> None:
        self.ports = {name: free_port() for name in ("redis", "generation", "trainer", "embedding")}
        document = started(compose(), "cpu")
        (folder / "secrets").mkdir()
        for secret in ("pairwright_api_keys", "pairwright_embedding_admin_keys", "hf_token"):
            (folder / "secrets" / secret).write_text(KEY + "\n" if secret == "pairwright_api_keys" else "")
        dotenv = {
            "PAIRWRIGHT_TEACHER": str(make_tiny_teacher(folder / "teacher")),
            "PAIRWRIGHT_STUDENT": str(folder / "student"),
            "PAIRWRIGHT_GENERATION_DTYPE": "float32",
            "PAIRWRIGHT_TRAINER_ROUND_PAIRS": "10",
            "PAIRWRIGHT_TRAINER_MAX_STEPS": "20",
            "PAIRWRIGHT_TRAINER_WAIT_FOR_GENERATION": "never",
            "PAIRWRIGHT_TRAINER_GATE": "off",  # random words teach nothing
            "PAIRWRIGHT_GENERATION_PORT": "1",  # the compose file's own settings win
        }
        static_student(seed=1).save(str(folder / "student"))
        self.containers: dict[str, Container] = {}
        for name, service in document.items():
            if name == "redis":
                self.containers[name] = Queue(name, service, folder, self.ports["redis"])
            else:
                self.containers[name] = Container(name, self._on_this_machine(name, service), folder, dotenv)
        self.started: list[str] = []

    def _on_this_machine(self, name: str, service: Mapping[str, Any]) -> dict[str, Any]:
        """The names and ports of the compose network, on loopback."""
        environment = dict(service["environment"])
        assert environment["PAIRWRIGHT_REDIS_URL"] == "redis://redis:6379/0"
        environment["PAIRWRIGHT_REDIS_URL"] = f"redis://127.0.0.1:{self.ports['redis']}/0"
        own = service_of(name)
        if own in self.ports:
            port = f"PAIRWRIGHT_{own.upper()}_PORT"
            assert own == "trainer" or service["ports"][0].endswith(f":{environment[port]}")
            environment[port] = str(self.ports[own])
        return dict(service) | {"environment": environment}

    def start(self, name: str) -> None:
        """Start a container once what it depends on is healthy."""
        if name in self.started:
            return
        container = self.containers[name]
        for need, condition in container.service.get("depends_on", {}).items():
            self.start(need)
            assert condition == {"condition": "service_healthy"}
            self.containers[need].wait_until_healthy()
        container.start()
        self.started.append(name)

    def stop(self) -> dict[str, int]:
        """In the reverse order; the exit statuses."""
        return {name: self.containers[name].stop() for name in reversed(self.started)}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    try:
        for name in stack.containers:
            stack.start(name)
        yield stack
    finally:
        for container in stack.containers.values():
            if container.process is not None and container.process.poll() is None:
                container.process.kill()
                container.process.wait()


@pytest.mark.vllm
@pytest.mark.timeout(400)
def test_what_compose_starts_generates_trains_and_embeds(stack: Stack) -> None:
    assert stack.started == ["redis", "generation-cpu", "trainer", "embedding"]
    for container in stack.containers.values():
        container.wait_until_healthy()
    with httpx.Client(timeout=120, headers={"Authorization": f"Bearer {KEY}"}) as client:
        generation, embedding = (f"http://127.0.0.1:{stack.ports[name]}" for name in ("generation", "embedding"))
        assert httpx.post(f"{generation}/generate", json={"num_inputs": 1}).status_code == 401
        assert httpx.post(f"{embedding}/embed", json={"inputs": "a"}).status_code == 401

        plan = {"num_inputs": 15, "decoding": {"top_k": 0, "top_p": 1.0}}
        job = client.post(f"{generation}/generate", json=plan, headers={"Prefer": "wait=100"}).json()
        assert job["state"] in ("complete", "exhausted")
        assert job["accepted"] == len(job["pairs"]) > 10

        def serving() -> str:
            answer = client.post(f"{embedding}/embed", json={"inputs": [job["pairs"][0]["sentence1"]]})
            assert answer.status_code == 200
            assert len(answer.json()[0]) > 1
            return answer.headers["x-pairwright-version"]

        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while not serving().startswith("r000001"):
            assert time.monotonic() < deadline, stack.containers["trainer"].log.read_text()
            time.sleep(0.2)
    assert stack.stop() == dict.fromkeys(("embedding", "trainer", "generation-cpu", "redis"), 0)
    assert {name: c.written_elsewhere() for name, c in stack.containers.items()} == {
        name: [] for name in stack.containers
    }


def test_a_dead_service_is_unhealthy() -> None:
    """And says why, where an engine keeps it."""
    document = compose()["services"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and doesn't listen
        port = str(unused.getsockname()[1])
        for name, message in (
            ("generation-cpu", f"pairwright health: generation doesn't answer on port {port}: "),
            ("embedding", f"pairwright health: embedding doesn't answer on port {port}: "),
            ("trainer", f"pairwright health: trainer doesn't answer on port {port}: "),
        ):
            environment = {
                **os.environ,
                **document[name]["environment"],
                f"PAIRWRIGHT_{service_of(name).upper()}_PORT": port,
            }
            command = [sys.executable, *document[name]["healthcheck"]["test"][2:]]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert done.returncode == 1
            assert done.stderr.startswith(message)
            assert len(done.stderr.splitlines()) == 1
