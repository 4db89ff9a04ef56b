"""Cohere's protocol, and its smaller numbers."""

import base64

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.embedding import LiveService
from tests.support.versions import DIMENSIONS, publish, static_student

TEXTS = ["a dog", "a man is playing a guitar", "the stock market fell"]


def embed(service: LiveService, **fields: object) -> httpx.Response:
    body = {"model": "current", "texts": TEXTS, "input_type": "search_document"} | fields
    return httpx.post(service.url + "/v2/embed", json=body)


def test_every_type(service: LiveService, static_one: SentenceTransformer) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    answer = embed(service, embedding_types=types)
    vectors = static_one.encode(TEXTS, normalize_embeddings=True)
    found = answer.json()["embeddings"]
    assert list(found) == types
    np.testing.assert_allclose(found["float"], vectors, atol=1e-6)
    decoded = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in found["base64"]]
    np.testing.assert_allclose(decoded, vectors, atol=1e-6)
    for kind in ("binary", "ubinary"):
        assert np.array_equal(found[kind], quantize_embeddings(vectors, kind))
    assert np.shape(found["binary"]) == (3, DIMENSIONS // 8)
    int8 = np.asarray(found["int8"])
    assert np.array_equal(np.asarray(found["uint8"]), int8 + 128)
    cosines = (int8 * vectors).sum(axis=1) / np.linalg.norm(int8, axis=1)
    assert cosines.min() > 0.998  # some numbers are past the range of the probe
    assert answer.json()["texts"] == TEXTS
    assert answer.json()["meta"]["billed_units"]["input_tokens"] == 12


def test_inputs_of_text_parts(service: LiveService) -> None:
    inputs = [{"content": [{"type": "text", "text": "a dog"}, {"type": "text", "text": "the stock market"}]}]
    body = {"model": "current", "inputs": inputs, "input_type": "search_document"}
    answer = httpx.post(service.url + "/v2/embed", json=body).json()
    assert answer["texts"] == ["a dog\nthe stock market"]
    assert answer["response_type"] == "embeddings_by_type"
    same = embed(service, texts=["a dog\nthe stock market"]).json()
    assert answer["embeddings"] == same["embeddings"]
    image = [{"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    refused = httpx.post(service.url + "/v2/embed", json=body | {"inputs": image})
    assert refused.status_code == 422
    assert "inputs.0.content.0.type" in refused.json()["message"]


def test_floats_are_the_default(service: LiveService) -> None:
    assert list(embed(service).json()["embeddings"]) == ["float"]


def test_the_input_type_chooses_the_prompt(store: ModelStore, start: Start) -> None:
    student = static_student(seed=1)
    student.prompts = {"query": "red ", "passage": "blue "}
    publish(store, student, 0)
    service = start()
    for kind, prompt in (("search_query", "red "), ("search_document", "blue "), ("clustering", "")):
        expected = student.encode([prompt + text for text in TEXTS], normalize_embeddings=True)
        np.testing.assert_allclose(embed(service, input_type=kind).json()["embeddings"]["float"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"texts": []}, 400, "texts"),
        ({"texts": ["a", ""]}, 400, "item 1"),
        ({"embedding_types": ["int4"]}, 422, "embedding_types"),
        ({"images": ["data:"]}, 422, "images"),
        ({"inputs": [{"content": [{"type": "text", "text": "a"}]}]}, 422, "either `texts` or `inputs`"),
        ({"texts": None}, 422, "either `texts` or `inputs`"),
        ({"input_type": "image"}, 422, "input_type"),
        ({"truncate": "MIDDLE"}, 422, "truncate"),
        ({"output_dimension": 3}, 422, "dimensions"),
        ({"model": "embed-v4.0"}, 404, "embed-v4.0"),
    ],
)
def test_errors(service: LiveService, fields: dict[str, object], status: int, named: str) -> None:
    answer = embed(service, **fields)
    assert answer.status_code == status
    assert set(answer.json()) == {"message"}
    assert named in answer.json()["message"]
