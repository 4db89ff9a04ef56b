"""Streaming a job: events that can be taken up again, downloads, what inline tasks and presets make."""

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.generation.decoding.vllm.engine import VllmEngine
from shared.queue import EmbeddedServer
from tests.generation.api.test_app import QUICK, SENTENCES
from tests.support.generation import live_generation


@pytest.fixture
def client(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> Iterator[httpx.Client]:
    with live_generation(engine, server.url, dataset) as client:
        yield client


def events(
    client: httpx.Client, path: str, after: str | None = None, count: int | None = None
) -> list[tuple[str, str, Any]]:
    """(event, id, data) until the end, or the first `count`."""
    received: list[tuple[str, str, Any]] = []
    headers = {"Last-Event-ID": after} if after is not None else {}
    fields: dict[str, str] = {}
    with client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                received.append((fields["event"], fields["id"], json.loads(fields["data"])))
                fields = {}
                if len(received) == count:
                    break
    return received


@pytest.mark.slow
def test_events_go_on_after_the_last_one_received(client: httpx.Client) -> None:
    location = client.post("/generate", json={"num_inputs": 40, "decoding": QUICK}).headers["location"]
    first = events(client, f"{location}/events?pairs=true", count=12)
    rest = events(client, f"{location}/events?pairs=true", after=first[-1][1])
    assert rest[-1][0] == "done"
    pairs = [pair for kind, _, data in first + rest if kind == "pairs" for pair in data]
    downloaded = [json.loads(line) for line in client.get(f"{location}/pairs").text.splitlines()]
    assert pairs == downloaded
    ids = [int(id_) for _, id_, _ in first + rest]
    assert ids == sorted(ids)
    # Whoever comes after the end gets the end.
    assert [kind for kind, _, _ in events(client, f"{location}/events", after=rest[-1][1])] == ["done"]
    assert client.get(f"{location}/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_a_running_job_tells_pace_and_end(client: httpx.Client) -> None:
    location = client.post("/generate", json={"num_inputs": 400, "decoding": QUICK}).headers["location"]
    while (job := client.get(location).json())["eta_seconds"] is None:
        assert job["state"] in ("queued", "running")
        time.sleep(0.02)
    assert job["pairs_per_second"] > 0
    assert job["eta_seconds"] == pytest.approx(
        (job["requested"] - job["accepted"]) / job["pairs_per_second"], rel=0.05, abs=0.06
    )
    done = client.delete(location).json()
    assert done["eta_seconds"] is None


def test_downloads_are_compressed_where_that_is_accepted(client: httpx.Client) -> None:
    job = client.post("/generate", json={"num_inputs": 30, "decoding": QUICK}, headers={"Prefer": "wait=60"}).json()
    path = f"/jobs/{job['id']}/pairs"
    plain = client.get(path, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.headers["content-type"] == "application/jsonl"
    with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(answer.iter_raw())).decode() == plain.text


def test_the_dino_preset_and_its_post_processing(client: httpx.Client) -> None:
    body = {"preset": "dino", "inputs": SENTENCES, "decoding": {"max_tokens": 60}}
    answer = client.post("/generate", json=body, headers={"Prefer": "wait=60"})
    job = answer.json()
    assert job["requested"] == 18
    assert job["samples"] == 18  # each tried once
    assert set(job["rejected_by_reason"]) <= {"unclosed", "line_break", "identical", "repeat", "unreadable"}
    assert job["accepted"] + job["rejected"] == 18
    rows = [json.loads(line) for line in client.get(f"/jobs/{job['id']}/pairs?postprocess=dino").text.splitlines()]
    assert {row["score"] for row in rows} <= {0.9, 0.5, 0.1, 0.0}
    sentences = {pair["sentence1"] for pair in job["pairs"]}
    assert sum(row["score"] == 0.0 for row in rows) == 2 * len(sentences)
    assert len(rows) == job["accepted"] + 2 * len(sentences)
    running = client.post("/generate", json={"num_inputs": 3000, "decoding": QUICK}).headers["location"]
    assert client.get(f"{running}/pairs?postprocess=dino").status_code == 409
    client.delete(running)


def test_a_task_of_ones_own(client: httpx.Client) -> None:
    spec = {
        "task_name": "mine",
        "labels": {
            "yes": {"score": 0.8, "instruction": 'word1 word2\nword3: "<X1>"\nword4: "'},
            "no": {"score": 0.2, "instruction": 'word5 word6\nword3: "<X1>"\nword4: "', "counter_labels": ["yes"]},
        },
    }
    first = {"task_name": "starts", "labels": {"any": {"instruction": 'word7 word8\nword3: "', "counter_labels": []}}}
    body = {"task": spec, "sentence1_task": first, "num_inputs": 4, "decoding": QUICK}
    job = client.post("/generate", json=body, headers={"Prefer": "wait=60"}).json()
    assert job["task"] == "mine"
    assert {(pair["label"], pair["score"]) for pair in job["pairs"]} == {("yes", 0.8), ("no", 0.2)}
    assert 'pairwright_generation_pairs_accepted_total{label="inline",task="inline"}' in client.get("/metrics").text
    wrong = spec | {"labels": {"yes": {"score": 2, "instruction": '<X1> "'}}}
    answer = client.post("/generate", json={"task": wrong, "inputs": SENTENCES})
    assert answer.status_code == 422
    assert "task.spec.labels.yes.score" in answer.json()["detail"]
    lost = client.post("/generate", json={"task": first, "inputs": SENTENCES})
    assert "asks for first sentences only" in lost.json()["detail"]


def test_quotes_in_inputs_are_kept_in_pairs(client: httpx.Client) -> None:
    body = {"inputs": ['word1 "word2" word3.'], "decoding": QUICK}
    job = client.post("/generate", json=body, headers={"Prefer": "wait=60"}).json()
    assert job["accepted"] > 0
    assert {pair["sentence1"] for pair in job["pairs"]} == {'word1 "word2" word3.'}


def test_the_chat_form_needs_a_template(client: httpx.Client) -> None:
    """The tiny teacher is a base model: the request is refused, and nothing else suffers."""
    answer = client.post("/generate", json={"inputs": SENTENCES, "prompt_form": "chat"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "prompt_form"
    assert "the teacher has no chat template" in answer.json()["detail"]
    assert client.get("/readyz").status_code == 200


def test_finished_jobs_are_forgotten_after_their_time(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> None:
    with live_generation(engine, server.url, dataset, keep_jobs_hours=1.5 / 3600) as client:
        job = client.post("/generate", json={"inputs": SENTENCES}, headers={"Prefer": "wait=60"}).json()
        assert client.get(f"/jobs/{job['id']}").status_code == 200
        deadline = time.monotonic() + 20
        while client.get(f"/jobs/{job['id']}").status_code != 404 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert client.get(f"/jobs/{job['id']}").status_code == 404
        assert client.get("/jobs").json() == []
