"""Reranking over HTTP: both protocols, a real engine, a real student, jobs beside it."""

import asyncio
import json
import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.generation.decoding.base import Continuation
from services.generation.decoding.vllm.engine import VllmEngine
from shared import query_prompt
from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from tests.support.embedding import LiveService
from tests.support.generation import live_generation
from tests.support.versions import publish, static_student

QUERY = "a dog is running"
TEXTS = ["a man is playing a guitar", "word1 word2", "a dog is eating", "", "a man is playing a guitar"]


@pytest.fixture
def client(engine: VllmEngine, server: EmbeddedServer, dataset: str) -> Iterator[httpx.Client]:
    with live_generation(engine, server.url, dataset, max_rerank_texts=20, max_queue_texts=30) as client:
        yield client


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    home = tmp_path_factory.mktemp("embedding")
    publish(ModelStore(home / "models" / "default"), static_student(seed=1), 0)
    service = LiveService(home)
    service.wait_until_ready()
    yield service
    service.stop()


def tei(client: httpx.Client, **fields: Any) -> Any:
    answer = client.post("/rerank", json={"query": QUERY, "texts": TEXTS} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def expected_scores(engine: VllmEngine) -> list[float]:
    """From the engine itself: how much likelier each text makes the query, in nats a token."""

    def mean(text: str) -> float:
        parts = (query_prompt.OPENING, text, query_prompt.BETWEEN, QUERY, query_prompt.CLOSING)
        values = asyncio.run(engine.log_likelihoods(Continuation(*parts)))
        return sum(values) / len(values)

    return [mean(text) - mean(query_prompt.NEUTRAL) for text in TEXTS]


def test_the_form_of_text_embeddings_inference(client: httpx.Client, engine: VllmEngine) -> None:
    expected = expected_scores(engine)
    answer = client.post("/rerank", json={"query": QUERY, "texts": TEXTS, "raw_scores": True, "return_text": True})
    assert answer.headers["x-pairwright-scores"] == "query likelihood"
    ranks = answer.json()
    assert [rank["score"] for rank in ranks] == sorted((rank["score"] for rank in ranks), reverse=True)
    assert sorted(rank["index"] for rank in ranks) == list(range(len(TEXTS)))
    assert [rank["text"] for rank in ranks] == [TEXTS[rank["index"]] for rank in ranks]
    for rank in ranks:
        assert rank["score"] == pytest.approx(expected[rank["index"]], abs=1e-4)
    assert ranks[0]["score"] > ranks[-1]["score"] + 0.01  # the texts matter
    shares = tei(client)
    assert [set(rank) for rank in shares] == [{"index", "score"}] * len(TEXTS)
    assert [rank["index"] for rank in shares] == [rank["index"] for rank in ranks]
    for share, rank in zip(shares, ranks, strict=True):
        assert share["score"] == pytest.approx(1 / (1 + math.exp(-rank["score"])))


def test_the_order_of_texts_changes_no_score(client: httpx.Client) -> None:
    forward = {rank["text"]: rank["score"] for rank in tei(client, raw_scores=True, return_text=True)}
    backward = tei(client, texts=TEXTS[::-1], raw_scores=True, return_text=True)
    assert {rank["text"]: rank["score"] for rank in backward} == forward


def test_coheres_forms(client: httpx.Client) -> None:
    ranks = tei(client)
    body = {"model": "rerank-v3.5", "query": QUERY, "documents": TEXTS, "top_n": 2}
    second = client.post("/v2/rerank", json=body).json()
    assert second["results"] == [{"index": rank["index"], "relevance_score": rank["score"]} for rank in ranks[:2]]
    assert second["meta"] == {"api_version": {"version": "2"}}
    assert second["id"]
    objects = [{"text": text} for text in TEXTS]
    first = client.post("/v1/rerank", json=body | {"documents": objects, "return_documents": True}).json()
    assert first["meta"] == {"api_version": {"version": "1"}}
    assert first["results"] == [one | {"document": {"text": TEXTS[one["index"]]}} for one in second["results"]]


def test_requests_beside_a_running_job(client: httpx.Client) -> None:
    """Neither waits for the other, and what each gets is the same as alone."""
    body = {"num_inputs": 6, "seed": 5, "decoding": {"top_k": 0, "top_p": 1.0}, "dry_run": True}
    alone = tei(client, raw_scores=True)
    pairs = client.post("/generate", json=body, headers={"Prefer": "wait=120"}).json()["pairs"]
    endless = client.post("/generate", json=body | {"num_inputs": 3000}).headers["location"]
    job = client.post("/generate", json=body).headers["location"]
    with ThreadPoolExecutor(5) as threads:
        requests = [threads.submit(tei, client, raw_scores=True) for _ in range(15)]
        assert [request.result() for request in requests] == [alone] * 15
    assert client.get(endless).json()["state"] == "running"
    client.delete(endless)
    while not (status := client.get(job).json())["finished"]:
        pass
    assert status["accepted"] == len(pairs)
    assert list(client.get(f"{job}/pairs").iter_lines())
    texts = re.search(r"^pairwright_generation_texts_reranked_total (\S+)", client.get("/metrics").text, re.MULTILINE)
    assert texts is not None
    assert float(texts[1]) == 16 * len(TEXTS)


def test_the_students_cosine_is_mixed_in(
    engine: VllmEngine, server: EmbeddedServer, dataset: str, embedding: LiveService
) -> None:
    asked = [text or "nowhere" for text in TEXTS]  # it takes no empty texts; an unknown word's cosine is 0
    body = {"query": QUERY, "texts": asked, "raw_scores": True}
    cosines = {rank["index"]: rank["score"] for rank in httpx.post(f"{embedding.url}/rerank", json=body).json()}
    with live_generation(engine, server.url, dataset, embedding_url=embedding.url + "/") as client:
        likelihoods = {rank["index"]: rank["score"] for rank in tei(client, raw_scores=True)}
        for weight in (0, 0.25, 1):
            for rank in tei(client, raw_scores=True, weight=weight):
                mixed = weight * likelihoods[rank["index"]] + (1 - weight) * cosines[rank["index"]]
                assert rank["score"] == pytest.approx(mixed, abs=1e-5)


def test_a_student_that_is_not_there(
    engine: VllmEngine, server: EmbeddedServer, dataset: str, client: httpx.Client, tmp_path: Path
) -> None:
    answer = client.post("/rerank", json={"query": QUERY, "texts": TEXTS, "weight": 0.5})
    assert answer.status_code == 422
    assert "PAIRWRIGHT_GENERATION_EMBEDDING_URL is not set" in answer.json()["error"]
    with live_generation(engine, server.url, dataset, embedding_url="http://127.0.0.1:9") as other:
        answer = other.post("/rerank", json={"query": QUERY, "texts": TEXTS, "weight": 0.5})
        assert answer.status_code == 503
        assert answer.json()["error_type"] == "Unhealthy"
        assert "the embedding service at http://127.0.0.1:9 gives no cosines" in answer.json()["error"]
        assert tei(other, weight=1)  # which needs none
    empty = LiveService(tmp_path)  # it has no version yet
    with live_generation(engine, server.url, dataset, embedding_url=empty.url) as other:
        answer = other.post("/v2/rerank", json={"query": QUERY, "documents": TEXTS, "weight": 0})
        assert answer.status_code == 503
        assert "it answered 503" in answer.json()["message"]
    empty.stop()


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"texts": []}, 422, "texts: "),
        ({"texts": ["a"] * 21}, 422, "texts: there are 21; a request may have 20"),
        ({"texts": "a"}, 422, "texts: "),
        ({"texts": ["a", 3]}, 422, "texts.1: "),
        ({"texts": ["\ud800"]}, 422, "texts.0: "),
        ({"query": " "}, 422, "query: must not be blank"),
        ({"query": None}, 422, "query: "),
        ({"weight": 1.5}, 422, "weight: "),
        ({"truncation_direction": "Left"}, 422, "truncation_direction: "),
        ({"top_n": 3}, 422, "top_n: "),
        ({"texts": ["a", "word1 " * 300], "truncate": False}, 422, "texts.1: it has 300 tokens"),
        ({"query": "word1 " * 300, "truncate": False}, 422, "query: it has 300 tokens"),
    ],
)
def test_bad_input(client: httpx.Client, fields: dict[str, Any], status: int, says: str) -> None:
    body = json.dumps({"query": QUERY, "texts": TEXTS} | fields)
    answer = client.post("/rerank", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error_type"]) == (status, "Validation")
    assert answer.json()["error"].startswith(says)
    assert tei(client)  # the engine is as good as before


def test_bad_input_in_coheres_words(client: httpx.Client) -> None:
    answer = client.post("/v2/rerank", json={"query": QUERY, "documents": [{"body": "a"}]})
    assert answer.status_code == 422
    assert answer.json()["message"].startswith("documents.0: ")
    answer = client.post("/v2/rerank", json={"query": QUERY, "documents": TEXTS, "max_tokens_per_doc": 10})
    assert "max_tokens_per_doc" in answer.json()["message"]
    assert client.get("/rerank").json()["error_type"] == "Validation"
    assert client.get("/jobs/nowhere").json()["title"] == "No such job"  # our own routes speak as before


def test_long_texts_are_cut_where_that_is_allowed(client: httpx.Client) -> None:
    long = "word1 " * 300
    assert len(tei(client, texts=[long, "a dog"])) == 2
    assert len(tei(client, query=long)) == len(TEXTS)


def test_too_many_texts_at_one_time_are_refused(client: httpx.Client, engine: VllmEngine) -> None:
    """Of requests that come together some are refused, and told when to come again; the others are answered."""
    with ThreadPoolExecutor(12) as threads:
        texts = [f"a dog word{number}" for number in range(20)]
        body = {"query": "word1 " * 90, "texts": texts}
        answers = list(threads.map(lambda _: client.post("/rerank", json=body), range(12)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "2"
    assert refused.json()["error_type"] == "Overloaded"


def test_the_texts_of_a_caller_who_left_are_not_scored(client: httpx.Client, engine: VllmEngine) -> None:
    body = {"query": "word1 " * 100, "texts": [f"word{number} " * 50 for number in range(20)]}
    with pytest.raises(httpx.ReadTimeout):
        client.post("/rerank", json=body, timeout=0.1)
    assert tei(client)
    while not engine.lockstep.idle:  # had the others stayed, they would be counted by then
        time.sleep(0.01)
    metrics = client.get("/metrics").text
    assert f"pairwright_generation_texts_reranked_total {float(len(TEXTS))}" in metrics
