"""text-embeddings-inference's protocol, on the wire."""

import httpx
import huggingface_hub
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.embedding.live import LiveService
from tests.embedding.students import DIMENSIONS, MAX_TOKENS

TEXTS = ["A man is playing a guitar.", "a dog", "the stock market fell on monday", "a dog"]


def embed(service: LiveService, inputs: object, path: str = "/embed", **fields: object) -> httpx.Response:
    return httpx.post(service.url + path, json={"inputs": inputs} | fields)


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_vectors_are_those_of_sentence_transformers(
    service: LiveService, static_one: SentenceTransformer, path: str
) -> None:
    answer = embed(service, TEXTS, path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    np.testing.assert_allclose(answer.json(), static_one.encode(TEXTS, normalize_embeddings=True), atol=1e-6)


def test_a_transformer_too(transformer_service: LiveService, transformer: SentenceTransformer) -> None:
    texts = [*TEXTS, "very long " * 40, "no"]
    answer = embed(transformer_service, texts, normalize=False)
    np.testing.assert_allclose(answer.json(), transformer.encode(texts), atol=1e-5)
    assert answer.headers["x-pairwright-truncated"] == "1"


def test_raw_vectors_are_exact(service: LiveService, static_one: SentenceTransformer) -> None:
    answer = embed(service, TEXTS[:1], normalize=False)
    assert np.array_equal(np.asarray(answer.json(), dtype=np.float32), static_one.encode(TEXTS[:1]))


def test_a_single_text_gives_a_nested_list_too(service: LiveService) -> None:
    assert np.shape(embed(service, "a dog").json()) == (1, DIMENSIONS)


def test_nulls_and_unknown_fields_mean_nothing(service: LiveService) -> None:
    fields = ("normalize", "truncate", "truncation_direction", "prompt_name", "dimensions")
    nulls: dict[str, object] = dict.fromkeys(fields)
    body = {"inputs": "a dog", "model": "x", "user": None, "dims": [1, {}]} | nulls
    answer = httpx.post(service.url + "/embed", json=body)
    assert answer.json() == embed(service, "a dog").json()


def test_the_answer_names_its_version(service: LiveService) -> None:
    version = embed(service, "a dog").headers["x-pairwright-version"]
    assert version == httpx.get(service.url + "/versions").json()["versions"][0]["id"]


@pytest.mark.parametrize(("direction", "kept"), [("Right", "start"), ("left", "end"), (None, "start")])
def test_truncation_direction(
    transformer_service: LiveService, transformer: SentenceTransformer, direction: str | None, kept: str
) -> None:
    start, end = "a man " * (MAX_TOKENS // 2 - 1), "the dog " * (MAX_TOKENS // 2 - 1)
    answer = embed(transformer_service, start + end, truncation_direction=direction)
    expected = transformer.encode([start if kept == "start" else end], normalize_embeddings=True)
    np.testing.assert_allclose(answer.json(), expected, atol=1e-5)


def test_truncate_false_refuses_and_counts(transformer_service: LiveService) -> None:
    answer = embed(transformer_service, ["a dog", "dog " * 40], truncate=False)
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "Validation"
    assert f"at most {MAX_TOKENS} tokens" in answer.json()["error"]
    assert "given: 42" in answer.json()["error"]
    assert embed(transformer_service, ["a dog"], truncate=False).status_code == 200


def test_native_dimensions_change_nothing(service: LiveService) -> None:
    assert embed(service, "a dog", dimensions=DIMENSIONS).json() == embed(service, "a dog").json()


@pytest.mark.parametrize("text", ["zzz", " ", "😀", "\u0000", "\x1b[0m", "\u2028"])
def test_text_without_a_known_word_is_a_zero_vector(service: LiveService, text: str) -> None:
    answer = embed(service, [text, "a dog"])
    assert answer.status_code == 200
    assert answer.json()[0] == [0.0] * DIMENSIONS
    assert any(answer.json()[1])


def test_large_requests_are_split_inside(
    store: object, transformer_service: LiveService, transformer: SentenceTransformer
) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["a", "dog", "man", "river"], random.integers(1, 40))) for _ in range(2048)]
    answer = httpx.post(transformer_service.url + "/embed", json={"inputs": texts}, timeout=60)
    np.testing.assert_allclose(answer.json(), transformer.encode(texts, normalize_embeddings=True), atol=1e-5)
    assert transformer_service.metric("batch_inputs_count") > 1


def test_too_many_inputs(service: LiveService) -> None:
    answer = embed(service, ["a"] * 2049)
    assert answer.status_code == 422
    assert answer.json() == {
        "error": "`inputs`: batch size 2049 > maximum allowed batch size 2048",
        "error_type": "Validation",
    }


def test_info_and_health(transformer_service: LiveService) -> None:
    info = httpx.get(transformer_service.url + "/info").json()
    assert info["max_input_length"] == MAX_TOKENS
    assert info["model_type"] == {"embedding": {"pooling": "cls"}}
    assert info["model_sha"] == transformer_service.serving()
    health = httpx.get(transformer_service.url + "/health")
    assert (health.status_code, health.content) == (200, b"")


def test_hugging_face_client(
    service: LiveService, static_one: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Offline, it refuses even localhost.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    expected = static_one.encode(TEXTS[:1], normalize_embeddings=True)
    for url in (service.url, service.url + "/embed"):
        vectors = huggingface_hub.InferenceClient(url).feature_extraction(TEXTS[0], normalize=True, truncate=True)
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
