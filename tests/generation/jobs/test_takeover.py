"""Several generation services on one Redis: one queue of work, no unit made twice, nothing lost when one goes."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.generation.decoding.vllm.engine import VllmEngine
from shared.queue import EmbeddedServer
from tests.generation.api.test_app import QUICK, deliveries, finished
from tests.support.generation import live_generation


@pytest.fixture
def pair_of_services(
    engine: VllmEngine, server: EmbeddedServer, dataset: str
) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with live_generation(engine, server.url, dataset) as one, live_generation(engine, server.url, dataset) as other:
        yield one, other


def recorded(client: httpx.Client) -> float:
    """Pairs and rejected samples that a service has recorded, by its metrics."""
    lines = client.get("/metrics").text.splitlines()
    names = ("pairwright_generation_pairs_accepted_total", "pairwright_generation_samples_rejected_total")
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(names))


def test_one_job_is_shared_and_comes_out_the_same(
    pair_of_services: tuple[httpx.Client, httpx.Client], engine: VllmEngine, server: EmbeddedServer, dataset: str
) -> None:
    one, other = pair_of_services
    body = {"num_inputs": 150, "seed": 5, "decoding": QUICK}
    before = engine.lockstep.samples_taken
    location = one.post("/generate", json=body).headers["location"]
    job = finished(other, location)
    assert finished(one, location)["accepted"] == job["accepted"]
    taken = engine.lockstep.samples_taken - before
    shared = one.get(f"{location}/pairs").text
    assert other.get(f"{location}/pairs").text == shared
    assert len(deliveries(server.url, dataset)) == job["accepted"] == len(shared.splitlines())
    # Every recorded sample was made once: both together sampled what the job counts, and its first sentences.
    assert recorded(one) + recorded(other) == job["accepted"] + job["rejected"]
    first_sentences = 150 + job["rejected"] - (job["samples"] - job["accepted"])
    assert taken <= job["samples"] + first_sentences

    with live_generation(engine, server.url, f"{dataset}-alone") as alone:
        location = alone.post("/generate", json=body).headers["location"]
        finished(alone, location)
        assert alone.get(f"{location}/pairs").text == shared


def test_several_jobs_take_turns(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> None:
    """A small job that comes after a large one doesn't wait for it."""
    with live_generation(engine, server.url, dataset) as client:
        large = client.post("/generate", json={"num_inputs": 3000, "decoding": QUICK}).headers["location"]
        while not client.get(large).json()["accepted"]:
            time.sleep(0.02)
        small = client.post("/generate", json={"num_inputs": 3, "decoding": QUICK}).headers["location"]
        finished(client, small)
        assert client.get(large).json()["state"] == "running"
        client.delete(large)


def test_the_lead_passes_on_when_a_service_stops(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> None:
    body = {"num_inputs": 300, "seed": 6, "decoding": QUICK}
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(live_generation(engine, server.url, dataset))
        with live_generation(engine, server.url, dataset) as first:
            location = first.post("/generate", json=body).headers["location"]
            while first.get(location).json()["accepted"] < 50:
                time.sleep(0.02)
        job = finished(other, location)
        assert job["units_done"] >= 300
        pairs = [json.loads(line) for line in other.get(f"{location}/pairs").text.splitlines()]
        assert len(pairs) == job["accepted"] == len(deliveries(server.url, dataset))
        alone = stack.enter_context(live_generation(engine, server.url, f"{dataset}-alone"))
        again = finished(alone, alone.post("/generate", json=body).headers["location"])
        assert [json.loads(line) for line in alone.get(f"/jobs/{again['id']}/pairs").text.splitlines()] == pairs


def test_a_number_of_pairs_is_kept_to_the_pair(
    pair_of_services: tuple[httpx.Client, httpx.Client], server: EmbeddedServer, dataset: str
) -> None:
    one, other = pair_of_services
    body: dict[str, Any] = {"pairs": 60, "pairs_per_label": 2, "attempts": 6, "decoding": QUICK}
    job = finished(other, one.post("/generate", json=body).headers["location"])
    assert job["state"] == "complete"
    assert job["accepted_by_label"] == {"0": 60, "0.5": 60, "1": 60}
    assert len(deliveries(server.url, dataset)) == 180
    # A task whose every sentence is thrown away ends with its reasons.
    hopeless = body | {"pairs": 5, "decoding": QUICK | {"max_tokens": 1}, "attempts": 2, "inputs": ["word1 word2."]}
    job = finished(one, other.post("/generate", json=hopeless).headers["location"])
    assert job["state"] == "exhausted"
    assert job["accepted"] < 15
    assert job["samples"] >= 30
    assert job["rejected"] == sum(job["rejected_by_reason"].values()) >= job["samples"] - job["accepted"]


def test_open_jobs_are_bounded_over_all_services(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> None:
    with (
        live_generation(engine, server.url, dataset, max_open_jobs=2) as one,
        live_generation(engine, server.url, dataset, max_open_jobs=2) as other,
    ):
        body = {"num_inputs": 3000, "decoding": QUICK}
        jobs = [client.post("/generate", json=body).headers["location"] for client in (one, other)]
        refused = other.post("/generate", json=body)
        assert refused.status_code == 429
        assert "2 jobs are open already" in refused.json()["detail"]
        for job in jobs:
            one.delete(job)
        assert other.post("/generate", json={"num_inputs": 1, "decoding": QUICK}).status_code == 202
