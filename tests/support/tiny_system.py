"""The three services as processes, as people run them, on a tiny teacher and a tiny student."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from shared.ports import port_setting
from tests.support.ports import free_port
from tests.support.tiny_teacher import make_tiny_teacher

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("generation", "trainer", "embedding")
PATIENCE_S = 120


def write_student(folder: Path, teacher: Path) -> None:
    """Random vectors for the words that the teacher writes."""
    written = json.loads((teacher / "tokenizer.json").read_text())["model"]["vocab"]
    student = random_student({word.removesuffix('"').removesuffix(".") for word in written}, dimensions=16)
    student.save(str(folder), create_model_card=False)


def random_student(words: set[str], dimensions: int) -> SentenceTransformer:
    """A vector for each word, split at blanks: texts are near as far as they share words; others say nothing."""
    table = np.random.default_rng(7).standard_normal((len(words) + 1, dimensions)).astype(np.float32)
    table[0] = 0
    numbers = {"[UNK]": 0} | {word: number for number, word in enumerate(sorted(words), 1)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.normalizer = normalizers.Replace(Regex(r"[.?]$"), "")
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=table)], device="cpu")


class TinySystem:
    """Started at once, ready after `wait_until_ready`. The queue is somebody else's."""

    def __init__(self, home: Path, redis_url: str, **settings: str) -> None:
        teacher, student = home / "teacher", home / "student"
        make_tiny_teacher(teacher)
        write_student(student, teacher)
        self.ports = {service: free_port() for service in SERVICES}
        self.home = home
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PAIRWRIGHT_", "OTEL_"))},
            **{port_setting(service): str(port) for service, port in self.ports.items()},
            **{f"PAIRWRIGHT_{service.upper()}_URL": self.url(service) for service in SERVICES},
            "PAIRWRIGHT_HOME": str(home),
            "PAIRWRIGHT_REDIS_URL": redis_url,
            "PAIRWRIGHT_DATASET": "tiny",
            "PAIRWRIGHT_TEACHER": str(teacher),
            "PAIRWRIGHT_STUDENT": str(student),
            "PAIRWRIGHT_GENERATION_ENGINE": "transformers",  # up in seconds
            "PAIRWRIGHT_GENERATION_DTYPE": "float32",
            "PAIRWRIGHT_TRAINER_ROUND_SECONDS": "1",
            "PAIRWRIGHT_TRAINER_GATE": "off",  # a tiny student learns nothing from a tiny teacher's noise
            "PAIRWRIGHT_TRAINER_WAIT_FOR_GENERATION": "always",
            "PAIRWRIGHT_EMBEDDING_POLL_SECONDS": "0.1",
            **settings,
        }
        self._processes = {service: self._start(service) for service in SERVICES}

    def _start(self, service: str) -> "subprocess.Popen[bytes]":
        with (self.home / f"{service}.log").open("wb") as log:
            command = [sys.executable, "-m", f"services.{service}"]
            return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)

    def kill(self, service: str) -> None:
        """End a service as the kernel does when memory is short."""
        self._processes[service].kill()
        self._processes[service].wait()

    def start_again(self, service: str) -> None:
        """Start a service that was killed."""
        self._processes[service] = self._start(service)

    def url(self, service: str) -> str:
        """Where a service answers."""
        return f"http://127.0.0.1:{self.ports[service]}"

    def log(self, service: str) -> str:
        """What a service has written."""
        return (self.home / f"{service}.log").read_text()

    def wait_until_ready(self) -> None:
        """All three say that they can do their work."""
        for service in SERVICES:
            self.wait_until(lambda service=service: self._is_ready(service), f"{service} is ready")  # type: ignore[misc]

    def _is_ready(self, service: str) -> bool:
        try:
            return httpx.get(self.url(service) + "/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def wait_until(self, holds: Callable[[], object], what: str) -> None:
        """Wait for something that must come while all services live."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            for service, process in self._processes.items():
                assert process.poll() is None, (
                    f"{service} ended with {process.returncode}:\n{self.log(service)[-3000:]}"
                )
            logs = "".join(f"\n--- {service}\n{self.log(service)[-2000:]}" for service in SERVICES)
            assert time.monotonic() < deadline, f"never came: {what}{logs}"
            time.sleep(0.05)

    def stop(self) -> None:
        """End all services as systemd and Docker do: traces that weren't sent yet are sent."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
