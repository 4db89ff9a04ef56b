"""Ollama's protocol, as its clients speak it."""

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.support.embedding import LiveService
from tests.support.versions import DIMENSIONS, MAX_TOKENS

TEXTS = ["a dog", "a man is playing a guitar"]


@pytest.mark.parametrize("model", ["current", "pairwright", "current:latest"])
def test_embed(service: LiveService, static_one: SentenceTransformer, model: str) -> None:
    body = {"model": model, "input": TEXTS, "truncate": True, "options": {"num_ctx": 512}, "keep_alive": "5m"}
    answer = httpx.post(service.url + "/api/embed", json=body)
    expected = static_one.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(answer.json()["embeddings"], expected, atol=1e-6)
    assert answer.json()["model"] == model
    assert answer.json()["prompt_eval_count"] == 8
    assert answer.json()["total_duration"] > 0
    assert answer.headers["x-pairwright-version"] == service.serving()


def test_a_single_text_and_the_older_route(service: LiveService) -> None:
    new = httpx.post(service.url + "/api/embed", json={"model": "current", "input": "a dog"}).json()["embeddings"]
    old = httpx.post(service.url + "/api/embeddings", json={"model": "current", "prompt": "a dog"}).json()["embedding"]
    assert np.shape(new) == (1, DIMENSIONS)
    assert new[0] == old


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"input": "a", "model": "nomic-embed-text"}, 404, "nomic-embed-text"),
        ({"input": ""}, 400, "input"),
        ({"input": ["a", 1]}, 422, "item 1"),
        ({"input": "no " * 50, "truncate": False}, 422, f"{MAX_TOKENS} tokens"),
        ({"input": "a", "dimensions": 3}, 422, "dimensions"),
        ({"input": "a", "stream": False}, 422, "stream"),
    ],
)
def test_errors(transformer_service: LiveService, fields: dict[str, object], status: int, named: str) -> None:
    answer = httpx.post(transformer_service.url + "/api/embed", json={"model": "current"} | fields)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert named in answer.json()["error"]


def test_lists(service: LiveService) -> None:
    names = [model["model"] for model in httpx.get(service.url + "/api/tags").json()["models"]]
    assert names == ["current", service.serving()]
    assert httpx.get(service.url + "/api/version").json()["version"]
