"""Queries for the dataset's passages: a real engine, and a real trainer that reads its documents out."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.generation.decoding.vllm.engine import VllmEngine
from shared.queue import EmbeddedServer
from tests.generation.api.test_app import finished
from tests.support.corpus import LiveCorpus
from tests.support.documents import make_document
from tests.support.generation import live_generation
from tests.support.generation_process import environment, generate

LOOSE: dict[str, Any] = {"filters": [], "exemplars": 0, "decoding": {"top_k": 0, "top_p": 1.0}}
BODY = {"task": "retrieval", "queries": 12, "seed": 3, **LOOSE}
DOCUMENTS = [make_document(str(n), f"word{n} word{n + 20}", f"word{n} word{n + 40}", title="word1") for n in range(6)]


def pairs_of(client: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post("/generate", json=body, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200, answer.text
    pairs: list[dict[str, Any]] = answer.json()["pairs"]
    return pairs


@pytest.mark.slow
def test_queries_of_the_dataset_are_the_command_s_whatever_came_later(
    engine: VllmEngine, server: EmbeddedServer, dataset: str, tiny_teacher: Path, tmp_path: Path
) -> None:
    trainer = LiveCorpus(tmp_path, server.url, dataset)
    with live_generation(engine, server.url, dataset, trainer.settings) as client:
        refused = client.post("/generate", json=BODY)
        assert (refused.status_code, refused.json()["title"]) == (503, "The trainer does not answer")
        assert "PAIRWRIGHT_TRAINER_URL" in refused.json()["detail"]
        with trainer.running():
            empty = client.post("/generate", json=BODY)
            assert empty.json()["errors"][0]["field"] == "queries"
            trainer.add(DOCUMENTS)
            pairs = pairs_of(client, BODY | {"dry_run": True})
            assert len(pairs) >= 8
            assert {pair["sentence2"] for pair in pairs} <= {
                passage.content for document in DOCUMENTS for passage in document.passages
            }
            arguments = ["--task", "retrieval", "--queries", "12", "--seed", "3", "--out", str(tmp_path / "out.jsonl")]
            plan = tmp_path / "plan.json"
            plan.write_text(json.dumps(LOOSE))
            settings = environment(tmp_path, tiny_teacher, PAIRWRIGHT_TRAINER_URL=trainer.url)
            done = generate([*arguments, "--plan", str(plan)], settings)
            assert done.returncode == 0, done.stderr[-2000:]
            assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == pairs

            # The same key finds the same job, and an interrupted command goes on, though the corpus has grown.
            first = client.post("/generate", json=BODY, headers={"Idempotency-Key": "mine"})
            trainer.add([*DOCUMENTS, make_document("new", "word149 word148")])
            again = client.post("/generate", json=BODY, headers={"Idempotency-Key": "mine"})
            assert again.json()["id"] == first.json()["id"]
            journal = tmp_path / "out.jsonl.journal"
            journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:4]))
            assert generate([*arguments, "--plan", str(plan)], settings).returncode == 0
            assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == pairs


@pytest.mark.slow
def test_a_job_waits_for_the_trainer_to_come_back(
    engine: VllmEngine, server: EmbeddedServer, dataset: str, tmp_path: Path
) -> None:
    trainer = LiveCorpus(tmp_path, server.url, dataset)
    with live_generation(engine, server.url, dataset, trainer.settings, max_running_jobs=1) as client:
        with trainer.running():
            trainer.add(DOCUMENTS)
            blocker = client.post("/generate", json={"num_inputs": 3000, "filters": []}).headers["location"]
            waiting = client.post("/generate", json=BODY).headers["location"]
        assert client.get(waiting).json()["state"] == "queued"
        client.delete(blocker)
        while not (seen := client.get(waiting).json())["waiting_for"]:
            assert seen["state"] in ("queued", "running")
        assert seen["waiting_for"].startswith(f"the trainer's passages: {trainer.url}")
        with trainer.running():
            assert finished(client, waiting)["accepted"] >= 8
