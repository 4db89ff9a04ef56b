"""Several generation services on one Redis: a job has one owner, and another takes it over without losing a pair."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.jobs.scheduler import JobScheduler
from services.generation.jobs.store import JobStore
from services.generation.jobs.worker import JobContext
from services.generation.metrics import Metrics
from services.generation.pairs.corpus_source import CorpusSource
from services.generation.pairs.generator import PairGenerator
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import load_all_tasks
from services.generation.pairs.work_item import public_pairs
from shared.heartbeat import Heartbeats
from shared.queue import EmbeddedServer
from shared.redis import command_client
from shared.stream import PairStream
from tests.generation.api.test_app import QUICK, deliveries, finished
from tests.support.generation import live_generation

Services = tuple[httpx.Client, httpx.Client]


@pytest.fixture
def services(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> Iterator[Services]:
    with live_generation(engine, server.url, dataset) as one, live_generation(engine, server.url, dataset) as other:
        yield one, other


def recorded(client: httpx.Client) -> float:
    """Pairs and rejected samples that a service has recorded, by its metrics."""
    lines = client.get("/metrics").text.splitlines()
    names = ("pairwright_generation_pairs_accepted_total", "pairwright_generation_samples_rejected_total")
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(names))


def pairs_of(client: httpx.Client, location: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.get(f"{location}/pairs").text.splitlines()]


def wait_for_pairs(client: httpx.Client, location: str, count: int) -> None:
    while client.get(location).json()["accepted"] < count:
        time.sleep(0.02)


def test_one_service_writes_a_job_and_every_service_shows_it(services: Services, engine: VllmEngine) -> None:
    one, other = services
    before = engine.lockstep.samples_taken
    location = one.post("/generate", json={"num_inputs": 60, "seed": 5, "decoding": QUICK}).headers["location"]
    job = finished(other, location)
    assert pairs_of(other, location) == pairs_of(one, location)
    # Nothing is sampled twice, and one of the two has recorded all of it.
    first_sentences = 60 + job["rejected"] - (job["samples"] - job["accepted"])
    assert engine.lockstep.samples_taken - before <= job["samples"] + first_sentences
    assert sorted([recorded(one), recorded(other)]) == [0, job["accepted"] + job["rejected"]]


def test_two_services_run_two_jobs_and_either_cancels_any(services: Services) -> None:
    body = {"num_inputs": 3000, "decoding": QUICK}
    locations = [client.post("/generate", json=body | {"seed": seed}).headers["location"]
                 for seed, client in enumerate(services)]  # fmt: skip
    for location in locations:
        wait_for_pairs(services[0], location, 10)
    for client, location in zip(services, reversed(locations), strict=True):
        assert client.delete(location).json()["state"] == "cancelled"


def test_several_jobs_take_turns(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> None:
    """A small job that comes after a large one doesn't wait for it."""
    with live_generation(engine, server.url, dataset) as client:
        large = client.post("/generate", json={"num_inputs": 3000, "decoding": QUICK}).headers["location"]
        wait_for_pairs(client, large, 1)
        small = client.post("/generate", json={"num_inputs": 3, "decoding": QUICK}).headers["location"]
        finished(client, small)
        assert client.get(large).json()["state"] == "running"
        client.delete(large)


@pytest.mark.slow
def test_a_job_passes_on_when_its_service_stops(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> None:
    body = {"num_inputs": 150, "seed": 6, "decoding": QUICK}
    with contextlib.ExitStack() as stack:
        with live_generation(engine, server.url, dataset) as first:
            location = first.post("/generate", json=body).headers["location"]
            wait_for_pairs(first, location, 50)
            other = stack.enter_context(live_generation(engine, server.url, dataset))
        began = time.monotonic()
        recorded_before = other.get(location).json()["work_items_done"]
        while other.get(location).json()["work_items_done"] == recorded_before:
            assert time.monotonic() - began < 8, "an orderly stop releases the lease: nobody waits for its end"
            time.sleep(0.05)
        job = finished(other, location)
        pairs = pairs_of(other, location)
        assert len(pairs) == job["accepted"] == len(deliveries(server.url, dataset))
        alone = stack.enter_context(live_generation(engine, server.url, f"{dataset}-alone"))
        again = finished(alone, alone.post("/generate", json=body).headers["location"])
        assert pairs_of(alone, f"/jobs/{again['id']}") == pairs


def test_a_number_of_pairs_is_kept_to_the_pair(services: Services, server: EmbeddedServer, dataset: str) -> None:
    one, other = services
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


LEASE_S = 1.0


def scheduler(engine: VllmEngine, redis: Redis, dataset: str) -> JobScheduler:
    store, metrics = JobStore(redis, dataset, keep_s=600, lease_s=LEASE_S), Metrics(CollectorRegistry())
    passages = CorpusSource("http://127.0.0.1:9")
    context = JobContext(PairGenerator(engine), store, PairStream(redis, dataset), passages, metrics, dataset, "tiny")
    return JobScheduler(context, Heartbeats(redis, dataset), max_open=10, max_running=10)


@contextlib.contextmanager
def pausable_scheduler(engine: VllmEngine, url: str, dataset: str) -> Iterator[asyncio.AbstractEventLoop]:
    """One that runs in a thread; its event loop can be held up, as a stopped process is."""
    loop = asyncio.new_event_loop()

    async def run() -> None:
        redis = command_client(url)
        service = scheduler(engine, redis, dataset)
        try:
            await service.run()
        finally:
            await service.stop(within_s=5)
            await redis.aclose()

    task = loop.create_task(run())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)))
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=30)
        loop.close()


async def recorded_items(store: JobStore, id_: str, at_least: int) -> int:
    """How many results a job has, once there are so many."""
    for _ in range(3000):
        status = await store.status(id_)
        if status is not None and status.recorded >= at_least:
            return status.recorded
        await asyncio.sleep(0.02)
    raise AssertionError(f"{status} makes no progress")


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_paused_owner_that_comes_back_after_the_takeover_writes_nothing_twice(
    engine: VllmEngine, server: EmbeddedServer, redis: Redis, dataset: str
) -> None:
    plan = Plan.model_validate({"num_inputs": 120, "seed": 8, "decoding": QUICK}).resolve(load_all_tasks(None))
    store = JobStore(redis, dataset, keep_s=600)

    with pausable_scheduler(engine, server.url, dataset) as paused:
        other = scheduler(engine, redis, dataset)
        id_ = (await other.submit(plan, None)).id
        before = await recorded_items(store, id_, at_least=5)
        resume = threading.Event()
        paused.call_soon_threadsafe(resume.wait, 60)
        running = asyncio.create_task(other.run())
        await recorded_items(store, id_, at_least=before + 5)
        resume.set()
        await other.wait(id_, 60)
    running.cancel()
    status = await store.status(id_)
    assert status is not None
    assert status.done
    pairs = public_pairs([result async for result in store.results(id_)])
    assert len(pairs) == status.accepted.total() == len(await asyncio.to_thread(deliveries, server.url, dataset))

    alone = scheduler(engine, redis, f"{dataset}-alone")
    running = asyncio.create_task(alone.run())
    again = (await alone.submit(plan, None)).id
    await alone.wait(again, 60)
    running.cancel()
    undisturbed = JobStore(redis, f"{dataset}-alone", keep_s=600)
    assert public_pairs([result async for result in undisturbed.results(again)]) == pairs
