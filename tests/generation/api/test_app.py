"""The generation service over HTTP: a real engine, a real queue, a real port."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from services.generation.api.app import wait_seconds
from services.generation.decoding.vllm.engine import VllmEngine
from shared.heartbeat import Heartbeats
from shared.queue import EmbeddedServer
from shared.redis import command_client, reading_client
from shared.stream import Delivery, PairStream
from tests.support.generation import live_generation

SENTENCES = ["word1 word2 word3.", "word4 word5.", "word6 word7 word8 word9."]
QUICK: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "max_tokens": 40}


@pytest.fixture
def client(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> Iterator[httpx.Client]:
    with live_generation(engine, server.url, dataset) as client:
        yield client


@pytest.fixture
def redis_deliveries(server: EmbeddedServer, dataset: str) -> Any:
    return lambda: deliveries(server.url, dataset)


def deliveries(url: str, dataset: str) -> list[Delivery]:
    """Everything in the dataset's stream."""

    async def read() -> list[Delivery]:
        redis = reading_client(url, 1)
        stream, received = PairStream(redis, dataset), []
        while batch := await stream.read("test", block_ms=100):
            received += batch
        await redis.aclose()
        return received

    return asyncio.run(read())


def finished(client: httpx.Client, location: str, within_s: float = 60) -> dict[str, Any]:
    """The job once it is done."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        job: dict[str, Any] = client.get(location).json()
        if job.get("state") in ("complete", "exhausted", "failed", "cancelled"):  # while Redis is away there is none
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job is still {job}")


@pytest.mark.slow
def test_a_job_from_request_to_stream(client: httpx.Client, server: EmbeddedServer, dataset: str) -> None:
    answer = client.post("/generate", json={"inputs": SENTENCES, "pairs_per_label": 2, "decoding": QUICK})
    assert answer.status_code == 202
    location = answer.headers["location"]
    assert location == f"/jobs/{answer.json()['id']}"
    job = finished(client, location)
    assert job["requested"] == 18
    assert job["state"] == ("complete" if job["accepted"] == 18 else "exhausted")
    assert job["accepted"] == sum(job["accepted_by_label"].values()) > 9
    assert job["rejected"] == sum(job["rejected_by_reason"].values())
    assert job["work_items_done"] == job["work_items"] >= 3
    assert (job["units_done"], job["units"]) == (job["work_items_done"], job["work_items"])  # retired: remove in 0.3

    lines = client.get(f"{location}/pairs").text.splitlines()
    pairs = [json.loads(line) for line in lines]
    assert len(pairs) == job["accepted"]
    assert {pair["sentence1"] for pair in pairs} == set(SENTENCES)
    assert all(pair["score"] == float(pair["label"]) for pair in pairs)

    records = [delivery.record for delivery in deliveries(server.url, dataset)]
    assert sorted((r.pair.sentence1, r.pair.sentence2, r.pair.score) for r in records if r) == sorted(
        (pair["sentence1"], pair["sentence2"], pair["score"]) for pair in pairs
    )
    assert all(r is not None and r.provenance.job == job["id"] and r.provenance.dataset == dataset for r in records)


def test_prefer_wait_answers_with_the_pairs(client: httpx.Client) -> None:
    body = {"inputs": SENTENCES[:1], "labels": ["1"], "decoding": QUICK}
    answer = client.post("/generate", json=body, headers={"Prefer": "respond-async, wait=60"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=60"
    assert len(answer.json()["pairs"]) == answer.json()["accepted"] == 1
    at_once = client.post("/generate", json=body | {"num_inputs": 200, "inputs": None}, headers={"Prefer": "wait=0"})
    assert at_once.status_code == 202
    client.delete(at_once.headers["location"])


def test_the_same_seed_gives_the_same_pairs(
    engine: VllmEngine, server: EmbeddedServer, dataset: str, client: httpx.Client
) -> None:
    body = {"num_inputs": 6, "seed": 11, "decoding": QUICK}
    first = client.post("/generate", json=body, headers={"Prefer": "wait=60"}).json()["pairs"]
    with live_generation(engine, server.url, f"{dataset}-other") as other:
        other.post("/generate", json={"inputs": SENTENCES, "decoding": QUICK})  # company in the batch
        again = other.post("/generate", json=body, headers={"Prefer": "wait=60"}).json()["pairs"]
    assert again == first
    different = client.post("/generate", json=body | {"seed": 12}, headers={"Prefer": "wait=60"}).json()["pairs"]
    assert different != first


def test_pairs_that_the_dataset_has_are_counted_and_made_anew(client: httpx.Client, redis_deliveries: Any) -> None:
    body = {"inputs": SENTENCES, "decoding": QUICK}
    first = client.post("/generate", json=body, headers={"Prefer": "wait=60"}).json()
    again = client.post("/generate", json=body, headers={"Prefer": "wait=60"}).json()
    assert again["rejected_by_reason"]["duplicate"] >= first["accepted"]
    assert again["accepted"] > 0
    pairs = [(pair["sentence1"], pair["sentence2"]) for job in (first, again) for pair in job["pairs"]]
    assert len(set(pairs)) == len(pairs) == len(redis_deliveries())
    once = client.post("/generate", json=body | {"attempts": 1}, headers={"Prefer": "wait=60"}).json()
    assert (once["state"], once["accepted"]) == ("exhausted", 0)


def test_events_end_with_the_finished_job(client: httpx.Client) -> None:
    location = client.post("/generate", json={"num_inputs": 8, "decoding": QUICK}).headers["location"]
    events = []
    with client.stream("GET", f"{location}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((kind, json.loads(line.removeprefix("data: "))))
    assert [kind for kind, _ in events][-1] == "done"
    assert {kind for kind, _ in events[:-1]} <= {"progress"}
    counts = [data["accepted"] for _, data in events]
    assert counts == sorted(counts)
    assert events[-1][1]["accepted"] == client.get(location).json()["accepted"]
    assert set(events[-1][1]["latest"]) == {"sentence1", "sentence2", "score", "label"}


def test_a_cancelled_job_keeps_exactly_its_accepted_pairs(
    client: httpx.Client, server: EmbeddedServer, dataset: str
) -> None:
    body = {"num_inputs": 3000, "decoding": QUICK}
    location = client.post("/generate", json=body).headers["location"]
    while client.get(location).json()["accepted"] < 20:
        time.sleep(0.02)
    job = client.delete(location).json()
    assert job["state"] == "cancelled"
    assert 20 <= job["accepted"] < 9000
    assert len(deliveries(server.url, dataset)) == job["accepted"]
    assert client.delete(location).json()["state"] == "cancelled"
    following = client.post("/generate", json={"inputs": SENTENCES, "decoding": QUICK}, headers={"Prefer": "wait=60"})
    assert following.status_code == 200


def test_the_same_key_finds_the_same_job(client: httpx.Client, server: EmbeddedServer, dataset: str) -> None:
    body = {"inputs": SENTENCES, "decoding": QUICK}
    headers = {"Idempotency-Key": f"{dataset}-key", "Prefer": "wait=60"}
    first = client.post("/generate", json=body, headers=headers)
    again = client.post("/generate", json=body, headers=headers)
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(deliveries(server.url, dataset)) == first.json()["accepted"]
    other = client.post("/generate", json=body | {"seed": 1}, headers=headers)
    assert other.status_code == 422
    assert other.json()["errors"][0]["field"] == "Idempotency-Key"
    too_long = client.post("/generate", json=body, headers={"Idempotency-Key": "x" * 256})
    assert too_long.status_code == 422
    assert "idempotency-key" in too_long.json()["detail"].lower()


def test_many_at_once_with_one_key_make_one_job(client: httpx.Client, server: EmbeddedServer, dataset: str) -> None:
    def post(_: int) -> str:
        body = {"num_inputs": 5, "decoding": QUICK}
        return str(client.post("/generate", json=body, headers={"Idempotency-Key": dataset}).json()["id"])

    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(post, range(16)))
    assert len(ids) == 1
    job = finished(client, f"/jobs/{ids.pop()}")
    assert job["work_items_done"] >= 5
    assert len(deliveries(server.url, dataset)) == job["accepted"]


def test_jobs_are_listed_newest_first(client: httpx.Client) -> None:
    posted = [
        client.post("/generate", json={"inputs": SENTENCES[:1], "seed": seed}, headers={"Prefer": "wait=60"}).json()
        for seed in range(3)
    ]
    listed = client.get("/jobs").json()
    assert [job["id"] for job in listed] == [job["id"] for job in reversed(posted)]
    assert {job["state"] for job in listed} <= {"complete", "exhausted"}
    assert [job["id"] for job in client.get("/jobs", params={"limit": 1}).json()] == [posted[-1]["id"]]
    assert client.get("/jobs", params={"limit": 0}).status_code == 422


NASTY: list[tuple[bytes, int, str]] = [
    (b'{"task": "nope", "inputs": ["a b"]}', 422, "task: there is no task 'nope'; known: nli, paraphrase"),
    (b'{"inputs": ["a b"], "labels": ["2"]}', 422, "labels: task 'sts' has no label '2'; it has 1, 0.5, 0"),
    (b'{"inputs": ["a b"], "labels": []}', 422, "labels: "),
    (b'{"inputs": ["a b"], "labels": [1]}', 422, "labels.0: "),
    (b'{"inputs": []}', 422, "inputs: "),
    (b"{}", 422, "give inputs (sentences), num_inputs"),
    (b'{"inputs": ["a b"], "num_inputs": 3}', 422, "give one of inputs, num_inputs"),
    (b'{"inputs": "a b"}', 422, "inputs: "),
    (b'{"inputs": [1]}', 422, "inputs.0: "),
    (b'{"inputs": [null]}', 422, "inputs.0: "),
    (b'{"inputs": ["a b"], "preset": "nope"}', 422, "preset: "),
    (b'{"inputs": ["a b"], "filters": ["nope"]}', 422, "filters.0: there is no filter 'nope'; known: unclosed"),
    (b'{"inputs": ["a b"], "task": 5}', 422, "task: give a task's name"),
    (b'{"inputs": ["a b"], "task": {"task_name": "x", "labels": {}}}', 422, "task.spec.labels: "),
    (b'{"inputs": ["a b"], "prompt_form": "poem"}', 422, "prompt_form: "),
    (b'{"pairs": 5, "num_inputs": 3}', 422, "give num_inputs or pairs, not both"),
    (b'{"pairs": 1000000}', 422, "pairs: this asks for 3000000 pairs"),
    (b'{"inputs": ["a b"], "sentence1_task": "sts"}', 422, "sentence1_task: 'sts' asks for pairs"),
    (b'{"inputs": ["ok", "two\\nlines"]}', 422, "inputs.1: must be one line of text"),
    (b'{"inputs": ["nul \\u0000"]}', 422, "inputs.0: must be one line of text"),
    (b'{"inputs": ["\\ud800"]}', 422, "inputs.0: "),
    (b'{"inputs": ["   "]}', 422, "inputs.0: must not be blank"),
    (json.dumps({"inputs": ["x" * 2001]}).encode(), 422, "inputs.0: must have at most 2000 characters, has 2001"),
    (json.dumps({"inputs": ["x y"] * 100_001}).encode(), 422, "inputs: "),
    (b'{"num_inputs": 0}', 422, "num_inputs: "),
    (b'{"num_inputs": 1000000}', 422, "num_inputs: "),
    (b'{"num_inputs": 1.5}', 422, "num_inputs: "),
    (b'{"num_inputs": true}', 422, "num_inputs: "),
    (b'{"num_inputs": "5"}', 422, "num_inputs: "),
    (b'{"num_inputs": 100000, "pairs_per_label": 100}', 422, "pairs_per_label: this asks for 30000000 pairs"),
    (b'{"inputs": ["a b"], "pairs_per_label": 0}', 422, "pairs_per_label: "),
    (b'{"inputs": ["a b"], "decoding": {"temperature": NaN}}', 422, "decoding.temperature: "),
    (b'{"inputs": ["a b"], "decoding": {"temperature": 1e999}}', 422, "decoding.temperature: "),
    (b'{"inputs": ["a b"], "decoding": {"top_p": 0}}', 422, "decoding.top_p: "),
    (b'{"inputs": ["a b"], "decoding": {"max_tokens": 5000}}', 422, "decoding.max_tokens: "),
    (b'{"inputs": ["a b"], "seed": -1}', 422, "seed: "),
    (b'{"inputs": ["a b"], "typo": 1}', 422, "typo: unknown field"),
    (b"[", 400, "body: the body is not valid JSON"),
    (b"[]", 422, "body: "),
    (b"\xff\xfe", 400, "body"),
    (b"[" * 100_000, 400, "body"),
]


@pytest.mark.parametrize(("body", "status", "detail"), NASTY, ids=[body[:40].decode("latin-1") for body, *_ in NASTY])
def test_bad_requests_name_the_field(client: httpx.Client, body: bytes, status: int, detail: str) -> None:
    answer = client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json()["detail"]
    assert "Traceback" not in answer.text


def test_unknown_jobs_are_404(client: httpx.Client) -> None:
    for path in ("/jobs/nope", "/jobs/" + "0" * 32, "/jobs/nope/pairs"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.get("/jobs/nope/events").status_code == 404


def test_jobs_are_refused_when_the_trainer_is_behind_and_running_jobs_pause(
    engine: VllmEngine, server: EmbeddedServer, dataset: str
) -> None:
    with live_generation(engine, server.url, dataset, max_backlog=20) as client:
        location = client.post("/generate", json={"num_inputs": 20, "decoding": QUICK}).headers["location"]
        while "full" not in (client.get(location).json()["waiting_for"] or ""):
            time.sleep(0.02)
        refused = client.post("/generate", json={"inputs": SENTENCES})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        received: set[str] = set()
        while client.get(location).json()["state"] == "running":
            received |= asyncio.run(take_and_acknowledge(server.url, dataset))
        received |= asyncio.run(take_and_acknowledge(server.url, dataset))
        assert len(received) == client.get(location).json()["accepted"] > 20


def test_a_job_that_waits_for_room_can_be_cancelled(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> None:
    with live_generation(engine, server.url, dataset, max_backlog=7) as client:
        location = client.post("/generate", json={"num_inputs": 20, "decoding": QUICK}).headers["location"]
        while "full" not in (client.get(location).json()["waiting_for"] or ""):
            time.sleep(0.02)
        client.delete(location)
        job = finished(client, location)
        assert job["state"] == "cancelled"
        assert job["accepted"] == len(deliveries(server.url, dataset)) == 7


def test_a_job_that_cannot_be_read_harms_no_other(client: httpx.Client, server: EmbeddedServer, dataset: str) -> None:
    async def break_one() -> None:
        redis = command_client(server.url)
        await redis.sadd(f"pairwright:{{{dataset}}}:jobs:open", "0" * 32)
        await redis.hset(f"pairwright:{{{dataset}}}:job:{'0' * 32}", mapping={"state": '"queued"'})
        await redis.set(f"pairwright:{{{dataset}}}:job:{'0' * 32}:plan", '{"from": "another version"}')
        await redis.aclose()

    asyncio.run(break_one())
    body = {"inputs": SENTENCES, "decoding": QUICK}
    job = client.post("/generate", json=body, headers={"Prefer": "wait=60"}).json()
    assert job["work_items_done"] >= len(SENTENCES)
    assert job["accepted"] == len(deliveries(server.url, dataset))


async def take_and_acknowledge(url: str, dataset: str) -> set[str]:
    """What a trainer does: take pairs, keep them, acknowledge."""
    redis = reading_client(url, 1)
    stream, kept = PairStream(redis, dataset), set()
    while batch := await stream.read("test", block_ms=50):
        kept |= {delivery.record.pair.content_hash for delivery in batch if delivery.record}
        await stream.acknowledge(batch)
    await redis.aclose()
    return kept


def test_redis_killed_in_mid_job_loses_nothing(engine: VllmEngine, own_server: EmbeddedServer, dataset: str) -> None:
    with live_generation(engine, own_server.url, dataset) as client:
        location = client.post("/generate", json={"num_inputs": 60, "decoding": QUICK}).headers["location"]
        for _ in range(3):
            time.sleep(0.4)
            if own_server.process.pid is not None:
                os.kill(own_server.process.pid, signal.SIGKILL)
        job = finished(client, location)
        assert job["state"] in ("complete", "exhausted")
        assert job["work_items_done"] >= 60
        assert own_server.process.restarts >= 1
        pairs = client.get(f"{location}/pairs").text.splitlines()
        hashes = [
            delivery.record.pair.content_hash for delivery in deliveries(own_server.url, dataset) if delivery.record
        ]
        assert len(set(hashes)) == len(hashes) == job["accepted"] == len(pairs)


def test_without_redis_the_answer_is_503_and_readyz_names_it(engine: VllmEngine, tmp_path: Any, dataset: str) -> None:
    own = EmbeddedServer(tmp_path / "queue")
    own.start()
    with live_generation(engine, own.url, dataset) as client:
        assert client.get("/readyz").status_code == 200
        own.stop()
        answer = client.post("/generate", json={"inputs": SENTENCES})
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "2"
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["redis"].startswith("down")
        assert ready.json()["checks"]["engine"] == "ok"
        assert client.get("/livez").status_code == 200


def test_tasks_and_metrics(client: httpx.Client, server: EmbeddedServer, dataset: str) -> None:
    tasks = {task["task"]: task for task in client.get("/tasks").json()}
    assert set(tasks) == {"sts", "paraphrase", "nli", "question-answer", "query-passage", "topic", "retrieval"}
    assert tasks["retrieval"]["writes"] == "queries"
    example = tasks["retrieval"]["example"]
    assert example["request"]["inputs"] == [example["pairs"][0]["sentence2"]]
    sts = tasks["sts"]
    assert [pair["score"] for pair in sts["example"]["pairs"]] == [1.0, 0.5, 0.0]
    assert sts["labels"]["0"]["counter_labels"] == ["1", "0.5"]
    client.post("/generate", json={"inputs": SENTENCES, "decoding": QUICK}, headers={"Prefer": "wait=60"})
    metrics = client.get("/metrics").text
    assert 'pairwright_generation_pairs_accepted_total{label="0.5",task="sts"}' in metrics
    assert "pairwright_generation_lanes_running 0.0" in metrics
    assert "pairwright_generation_samples_replayed 0.0" in metrics
    assert 'pairwright_http_requests_total{method="POST",route="/generate",status="200"} 1.0' in metrics

    async def heartbeat() -> dict[str, Any]:
        redis = command_client(server.url)
        try:
            return await Heartbeats(redis, dataset).read("generation")
        finally:
            await redis.aclose()

    deadline = time.monotonic() + 10
    while asyncio.run(heartbeat()) != {"running_jobs": 0} and time.monotonic() < deadline:
        time.sleep(0.1)
    assert asyncio.run(heartbeat()) == {"running_jobs": 0}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("wait=5", 5), ("respond-async, Wait = 10", 10), ("handling=strict", None), ("wait=99999", 3600)],
)
def test_prefer_header(header: str | None, seconds: float | None) -> None:
    assert wait_seconds(header) == seconds
