"""Looking before training: dry runs, rejected sentences with reasons, warnings, and what is refused at the door."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.pairs.work_item import MAX_TEXTS_PER_REASON
from shared.queue import EmbeddedServer
from shared.redis import command_client
from tests.generation.api.test_app import QUICK, SENTENCES, deliveries, finished
from tests.support.generation import live_generation

WAIT = {"Prefer": "wait=60"}


@pytest.fixture
def client(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> Iterator[httpx.Client]:
    with live_generation(engine, server.url, dataset) as client:
        yield client


def lines(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    answer = client.get(path)
    assert answer.headers["content-type"] == "application/jsonl"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_dry_run_shows_its_pairs_and_they_go_nowhere(
    client: httpx.Client, server: EmbeddedServer, dataset: str
) -> None:
    body = {"inputs": SENTENCES, "decoding": QUICK}
    preview = client.post("/generate", json=body | {"dry_run": True}, headers=WAIT).json()
    assert preview["dry_run"] is True
    assert preview["accepted"] == len(preview["pairs"]) > 0
    assert lines(client, f"/jobs/{preview['id']}/pairs") == preview["pairs"]
    assert deliveries(server.url, dataset) == []
    accepted = "pairwright_generation_pairs_accepted_total{"
    assert accepted not in client.get("/metrics").text
    job = client.post("/generate", json=body, headers=WAIT).json()
    # The same pairs: the preview has not taken them away.
    assert (job["dry_run"], job["pairs"]) == (False, preview["pairs"])
    assert len(deliveries(server.url, dataset)) == job["accepted"]


def test_a_dry_run_is_taken_while_the_trainer_is_behind(
    engine: VllmEngine, server: EmbeddedServer, dataset: str
) -> None:
    with live_generation(engine, server.url, dataset, max_backlog=4) as client:
        body = {"inputs": SENTENCES[:1], "decoding": QUICK}
        client.post("/generate", json=body, headers=WAIT)
        assert client.post("/generate", json=body).status_code == 429
        assert client.post("/generate", json=body | {"dry_run": True}, headers=WAIT).status_code == 200


def test_rejected_sentences_are_shown_with_their_reasons(client: httpx.Client) -> None:
    body = {"inputs": SENTENCES, "decoding": QUICK | {"max_tokens": 2}, "pairs_per_label": 20, "attempts": 2}
    job = client.post("/generate", json=body, headers=WAIT).json()
    rejected = lines(client, f"/jobs/{job['id']}/rejected")
    assert job["rejected_by_reason"]["unclosed"] > MAX_TEXTS_PER_REASON
    most = {reason: min(count, MAX_TEXTS_PER_REASON) for reason, count in job["rejected_by_reason"].items()}
    assert Counter(row["reason"] for row in rejected) == most
    assert {row["label"] for row in rejected} == {"1", "0.5", "0"}
    assert {row["sentence1"] for row in rejected} == set(SENTENCES)
    assert any(row["text"] for row in rejected)
    only = lines(client, f"/jobs/{job['id']}/rejected?reason=unclosed")
    assert only == [row for row in rejected if row["reason"] == "unclosed"]
    assert lines(client, f"/jobs/{job['id']}/rejected?reason=nothing") == []


def test_duplicates_and_first_sentences_are_shown_too(client: httpx.Client) -> None:
    body = {"inputs": SENTENCES, "decoding": QUICK, "attempts": 1}
    first = client.post("/generate", json=body, headers=WAIT).json()
    again = client.post("/generate", json=body, headers=WAIT).json()
    texts = [row["text"] for row in lines(client, f"/jobs/{again['id']}/rejected?reason=duplicate")]
    assert texts == [pair["sentence2"] for pair in first["pairs"]]
    own = {"num_inputs": 3, "sentence1_decoding": QUICK | {"max_tokens": 1}, "attempts": 1, "dry_run": True}
    job = client.post("/generate", json=own, headers=WAIT).json()
    assert job["accepted"] == 0
    row = lines(client, f"/jobs/{job['id']}/rejected")[0]
    assert (row["label"], row["sentence1"]) == (None, None)


GERMAN = [
    "Der Patient klagt seit gestern über starke Schmerzen im linken Knie.",
    "Die Lieferung verzögert sich, weil der Zug aus München ausgefallen ist.",
]


def test_a_language_that_the_teacher_is_not_known_to_write_is_a_warning(
    engine: VllmEngine, server: EmbeddedServer, dataset: str, client: httpx.Client
) -> None:
    body = {"inputs": GERMAN, "decoding": QUICK, "dry_run": True}
    location = client.post("/generate", json=body).headers["location"]
    [warning] = client.get(location).json()["warnings"]
    assert "are in 'de', and the teacher (default) is known to write en only" in warning
    english = ["The patient has complained about pain in her left knee since yesterday.", "The delivery is late."]
    assert client.post("/generate", json=body | {"inputs": english}).json()["warnings"] == []
    with live_generation(engine, server.url, dataset, teacher_languages="en, de") as knows_german:
        assert knows_german.post("/generate", json=body).json()["warnings"] == []


def test_a_job_that_is_gone_from_redis_ends_and_stays_gone(
    engine: VllmEngine, own_server: EmbeddedServer, dataset: str
) -> None:
    async def flush() -> None:
        redis = command_client(own_server.url)
        await redis.flushall()
        await redis.aclose()

    async def keys() -> list[str]:
        redis = command_client(own_server.url)
        found = await redis.keys("*:job:*")
        await redis.aclose()
        return [str(key) for key in found if not str(key).endswith(":epoch")]

    with live_generation(engine, own_server.url, dataset) as client:
        location = client.post("/generate", json={"num_inputs": 3000, "decoding": QUICK}).headers["location"]
        while client.get(location).json()["accepted"] < 20:
            time.sleep(0.02)
        asyncio.run(flush())
        assert client.get(location).status_code == 404
        deadline = time.monotonic() + 60
        while engine.lanes_running and time.monotonic() < deadline:
            time.sleep(0.1)
        assert engine.lanes_running == 0
        assert client.get(location).status_code == 404
        assert asyncio.run(keys()) == []
        body = {"inputs": SENTENCES, "decoding": QUICK}
        assert finished(client, client.post("/generate", json=body).headers["location"])["accepted"] > 0
