"""Vectors in smaller types of numbers, on the routes of TEI."""

import base64
from typing import Any

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

from shared.manifest import PROBE_SENTENCES
from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.embedding import LiveService
from tests.support.versions import DIMENSIONS, publish

TEXTS = ["A man is playing a guitar.", "a dog", "the stock market fell on monday", "a dog"]


def embed(service: LiveService, inputs: object, path: str = "/embed", **fields: object) -> httpx.Response:
    return httpx.post(service.url + path, json={"inputs": inputs} | fields)


def test_smaller_numbers(service: LiveService, static_one: SentenceTransformer) -> None:
    vectors = static_one.encode(TEXTS, normalize_embeddings=True)
    fields: list[dict[str, Any]] = [{"output_dtype": "binary"}, {"embedding_types": ["binary"]}]
    for field in fields:
        assert np.array_equal(embed(service, TEXTS, **field).json(), quantize_embeddings(vectors, "binary"))
    int8 = np.asarray(embed(service, TEXTS, output_dtype="int8").json())
    assert np.array_equal(embed(service, TEXTS, output_dtype="uint8").json(), int8 + 128)
    assert ((int8 * vectors).sum(axis=1) / np.linalg.norm(int8, axis=1)).min() > 0.998
    assert embed(service, TEXTS, output_dtype="float").json() == embed(service, TEXTS).json()
    as_base64 = embed(service, TEXTS, output_dtype="base64").json()
    decoded = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in as_base64]
    np.testing.assert_allclose(decoded, vectors, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"output_dtype": "int4"}, "output_dtype"),
        ({"embedding_types": ["int8", "float"]}, "embedding_types"),
        ({"embedding_types": []}, "embedding_types"),
        ({"embedding_types": ["int8"], "output_dtype": "binary"}, "`output_dtype` and `embedding_types`"),
        ({"output_dtype": "uint8", "normalize": False}, "leave out `normalize`"),
    ],
)
def test_a_type_that_there_is_not(service: LiveService, fields: dict[str, Any], named: str) -> None:
    answer = embed(service, "a dog", **fields)
    assert answer.status_code == 422
    assert named in answer.json()["error"]


def test_int8_covers_what_the_manifest_says(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    vectors = static_one.encode(TEXTS, normalize_embeddings=True)
    publish(store, static_one, 0, int8_ranges={DIMENSIONS: 0.25})
    found = np.asarray(embed(start(), TEXTS, output_dtype="int8").json())
    assert np.array_equal(found, np.rint(vectors * np.float32(127 / 0.25)).clip(-127, 127))
    assert np.abs(vectors).max() > 0.25


def test_int8_of_a_prefix_has_its_own_range(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    publish(store, static_one, 0, matryoshka=[4])
    vectors = static_one.encode(TEXTS, truncate_dim=4, normalize_embeddings=True)
    int8 = np.asarray(embed(start(), TEXTS, dimensions=4, output_dtype="int8").json())
    probe = static_one.encode(list(PROBE_SENTENCES), truncate_dim=4, normalize_embeddings=True)
    covered = vectors.clip(-np.abs(probe).max(), np.abs(probe).max())
    np.testing.assert_allclose(int8 / 127 * np.abs(probe).max(), covered, atol=0.004)
