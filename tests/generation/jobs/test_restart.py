"""The service killed in the middle of a job, as a process: the job comes out as if nothing had happened."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from services.generation.decoding.vllm.engine import VllmEngine
from shared.queue import EmbeddedServer
from tests.generation.api.test_app import deliveries, finished
from tests.support.generation import live_generation
from tests.support.generation_process import environment
from tests.support.ports import free_port

PAIRS = 150
BODY = {"pairs": PAIRS, "labels": ["1", "0"], "seed": 9, "decoding": {"top_k": 0, "top_p": 1.0}}
LANES = "8"
"""Few, so that the job takes many batches."""


class Service:
    """`python -m services.generation`, on one Redis."""

    def __init__(self, settings: dict[str, str]) -> None:
        port = free_port()
        settings = settings | {"PAIRWRIGHT_GENERATION_PORT": str(port)}
        self.process = subprocess.Popen([sys.executable, "-m", "services.generation"], env=settings)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        deadline = time.monotonic() + 120
        while not self._ready():
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def _ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture
def settings(server: EmbeddedServer, dataset: str, tiny_teacher: Path, tmp_path: Path) -> dict[str, str]:
    return environment(
        tmp_path,
        tiny_teacher,
        PAIRWRIGHT_REDIS_URL=server.url,
        PAIRWRIGHT_DATASET=dataset,
        PAIRWRIGHT_GENERATION_MAX_LANES=LANES,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_9_in_the_middle_of_a_job_changes_nothing(
    settings: dict[str, str], engine: VllmEngine, server: EmbeddedServer, dataset: str
) -> None:
    service = Service(settings)
    location = service.client.post("/generate", json=BODY).headers["location"]
    deadline = time.monotonic() + 120
    while service.client.get(location).json()["accepted"] < PAIRS // 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    service.kill()

    service = Service(settings)
    try:
        before = service.client.get(location).json()
        assert PAIRS // 2 <= before["accepted"] < 2 * PAIRS, "what was recorded is still there, and not all was"
        job = finished(service.client, location, within_s=200)
        pairs = [json.loads(line) for line in service.client.get(f"{location}/pairs").text.splitlines()]
    finally:
        service.kill()
    assert job["state"] == "complete"
    assert job["accepted_by_label"] == {"0": PAIRS, "1": PAIRS}
    assert len(deliveries(server.url, dataset)) == 2 * PAIRS

    # An undisturbed run, in another engine and on another dataset, writes exactly these pairs in this order.
    with live_generation(engine, server.url, f"{dataset}-calm") as calm:
        again = finished(calm, calm.post("/generate", json=BODY).headers["location"], within_s=200)
        assert [json.loads(line) for line in calm.get(f"/jobs/{again['id']}/pairs").text.splitlines()] == pairs
