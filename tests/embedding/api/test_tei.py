"""text-embeddings-inference's protocol, on the wire."""

import gzip
import re
from pathlib import Path

import httpx
import huggingface_hub
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.embedding.conftest import Start
from tests.support.embedding import LiveService
from tests.support.versions import DIMENSIONS, MAX_TOKENS

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


def test_nulls_and_what_clients_send_to_every_server_mean_nothing(service: LiveService) -> None:
    fields = ("normalize", "truncate", "truncation_direction", "prompt_name", "dimensions", "user", "unknown")
    nulls: dict[str, object] = dict.fromkeys(fields)
    body = {"inputs": "a dog", "model": "x", "options": {"wait_for_model": True}} | nulls
    answer = httpx.post(service.url + "/embed", json=body)
    assert answer.json() == embed(service, "a dog").json()


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/embed", {"inputs": "a dog", "normalise": True}, "normalise"),
        ("/embed", {"inputs": "a dog", "dims": [1, {}]}, "dims"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"], "top": 3}}, "inputs.top"),
        ("/tokenize", {"inputs": "a dog", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ("/rerank", {"query": "a", "texts": ["b"], "top_n": 3}, "top_n"),
        ("/rerank", {"query": "a", "texts": ["b"], "input_type": "query"}, "input_type"),
    ],
)
def test_a_field_that_would_do_nothing_is_refused(service: LiveService, path: str, body: object, field: str) -> None:
    answer = httpx.post(service.url + path, json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"{field}: unknown field; there is ")


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


def test_large_requests_are_split_inside(transformer_service: LiveService, transformer: SentenceTransformer) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["a", "dog", "man", "river"], random.integers(1, 40))) for _ in range(2048)]
    before = transformer_service.metric("batch_inputs_count")
    answer = httpx.post(transformer_service.url + "/embed", json={"inputs": texts}, timeout=60)
    np.testing.assert_allclose(answer.json(), transformer.encode(texts, normalize_embeddings=True), atol=1e-5)
    assert transformer_service.metric("batch_inputs_count") > before + 1


def test_metrics_of_batches_and_requests_have_the_protocols_names_too(service: LiveService) -> None:
    def values() -> dict[str, float]:
        lines = httpx.get(service.url + "/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    before = values()
    assert embed(service, ["a text that no other test has", "and another one"]).status_code == 200
    after = values()
    parts = ("tokenization", "queue", "inference")
    for name in ("request_duration", *(f"request_{part}_duration" for part in parts)):
        assert after[f"te_{name}_count"] == before[f"te_{name}_count"] + 1
    times = {name: after[name] - before[name] for name in after if re.match(r"te_request_.*_sum", name)}
    assert 0 < sum(times[f"te_request_{part}_duration_sum"] for part in parts) <= times["te_request_duration_sum"]
    for theirs, ours in (("size", "inputs"), ("tokens", "tokens")):
        assert after[f"te_batch_next_{theirs}_sum"] == after[f"pairwright_embedding_batch_{ours}_sum"]
    assert after["te_batch_next_size_sum"] == before["te_batch_next_size_sum"] + 2
    assert after["te_queue_size"] == 0


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


def test_what_the_answer_says_of_its_cost(transformer_service: LiveService) -> None:
    headers = embed(transformer_service, ["a dog", "a cat"]).headers
    assert headers["x-compute-characters"] == "10"
    assert headers["x-compute-tokens"] == "8"
    for name in ("x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"):
        assert 0 <= int(headers[name]) < 10_000


@pytest.mark.parametrize("path", ["/similarity", "/"])
def test_similarity(service: LiveService, static_one: SentenceTransformer, path: str) -> None:
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}, "parameters": {"truncate": True}}
    answer = httpx.post(service.url + path, json=body)
    vectors = static_one.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(answer.json(), vectors @ vectors[0], atol=1e-6)
    assert answer.headers["x-pairwright-version"] == service.serving()


def test_similarity_with_nothing_to_compare(service: LiveService) -> None:
    answer = httpx.post(service.url + "/similarity", json={"inputs": {"source_sentence": "a", "sentences": []}})
    assert (answer.status_code, answer.json()["error_type"]) == (400, "Empty")
    answer = httpx.post(service.url + "/similarity", json={"inputs": {"source_sentence": "a"}})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
    assert "inputs.sentences" in answer.json()["error"]


def test_hugging_face_similarity(
    service: LiveService, static_one: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    cosines = huggingface_hub.InferenceClient(service.url).sentence_similarity("a dog", TEXTS)
    vectors = static_one.encode(["a dog", *TEXTS], normalize_embeddings=True)
    np.testing.assert_allclose(cosines, vectors[1:] @ vectors[0], atol=1e-6)


def test_tokenize(transformer_service: LiveService, transformer: SentenceTransformer) -> None:
    text = "a café dog"
    answer = httpx.post(transformer_service.url + "/tokenize", json={"inputs": [text, "no " * 50]}).json()
    assert [token["id"] for token in answer[0]] == transformer.tokenizer(text)["input_ids"]
    assert [(token["text"], token["special"], token["start"], token["stop"]) for token in answer[0]] == [
        ("[CLS]", True, None, None),
        ("a", False, 0, 1),
        ("café", False, 2, 6),
        ("dog", False, 7, 10),
        ("[SEP]", True, None, None),
    ]
    assert len(answer[1]) == 52, "nothing is truncated"
    plain = httpx.post(transformer_service.url + "/tokenize", json={"inputs": text, "add_special_tokens": False}).json()
    assert [token["text"] for token in plain[0]] == ["a", "café", "dog"]
    # What was asked for before and after doesn't depend on it.
    assert embed(transformer_service, "dog " * 40).headers["x-pairwright-truncated"] == "1"


def test_decode_is_the_way_back(transformer_service: LiveService) -> None:
    url = transformer_service.url
    ids = [[token["id"] for token in row] for row in httpx.post(url + "/tokenize", json={"inputs": TEXTS[1:]}).json()]
    assert httpx.post(url + "/decode", json={"ids": ids}).json() == TEXTS[1:]
    assert httpx.post(url + "/decode", json={"ids": ids[0]}).json() == TEXTS[1:2]
    with_special = httpx.post(url + "/decode", json={"ids": ids[0], "skip_special_tokens": False}).json()
    assert with_special == ["[CLS] a dog [SEP]"]
    for wrong in ([10**6], [-1], [10**30], []):
        assert httpx.post(url + "/decode", json={"ids": wrong}).status_code in (400, 422)


@pytest.mark.parametrize("path", ["/health", "/ping", "/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_way_to_ask_for_health(service: LiveService, path: str, method: str) -> None:
    answer = httpx.request(method, service.url + path)
    assert answer.status_code == 200
    assert answer.headers["x-pairwright-version"] == service.serving()
    assert (answer.content == b"") == (path != "/" or method == "HEAD")


def test_a_service_without_a_version_says_so_without_paths(start: Start, tmp_path: Path) -> None:
    service = start(ready=False)
    for path in ("/health", "/", "/readyz"):
        answer = httpx.get(service.url + path)
        assert answer.status_code == 503
        assert "no version of dataset 'default' is published yet" in answer.text
        assert str(tmp_path) not in answer.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_as_windows_writes_it(service: LiveService, encoding: str) -> None:
    answer = httpx.post(service.url + "/embed", content='{"inputs": "a café dog"}'.encode(encoding))
    assert answer.json() == embed(service, "a café dog").json()


def test_compressed_json(service: LiveService) -> None:
    body = gzip.compress(b'{"inputs": "a dog"}')
    answer = httpx.post(service.url + "/embed", content=body, headers={"Content-Encoding": "gzip"})
    assert answer.json() == embed(service, "a dog").json()
    answer = httpx.post(service.url + "/embed", content=body, headers={"Content-Encoding": "br"})
    assert answer.status_code == 415
    assert "br" in answer.json()["error"]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([["a dog"]], "item 0 is a list"),
        (["a", {"text": "b"}], "item 1 is an object"),
        (["a", None], "item 1 is null"),
        (["a", 1], "item 1 is a number"),
        (["a", True], "item 1 is true or false"),
        ([[1, 2], [3]], "token ids are not accepted"),
        ([1, 2], "token ids are not accepted"),
        (["a", "b", ""], "item 2 is"),
    ],
)
def test_what_is_wrong_with_inputs_and_where(service: LiveService, inputs: object, reason: str) -> None:
    assert reason in embed(service, inputs).json()["error"]


def test_where_a_lone_surrogate_is(service: LiveService) -> None:
    answer = httpx.post(service.url + "/embed", content=b'{"inputs": ["a", "b", "\\ud800 c"]}')
    assert answer.status_code == 400
    assert "(item 2 of `inputs`)" in answer.json()["error"]


def test_which_input_is_too_long(transformer_service: LiveService) -> None:
    answer = embed(transformer_service, ["a dog", "dog " * 40], truncate=False)
    assert "given: 42 (item 1)" in answer.json()["error"]


def test_an_unknown_prompt_lists_those_that_there_are(service: LiveService) -> None:
    answer = httpx.post(service.url + "/tokenize", json={"inputs": "a", "prompt_name": "nothing"})
    assert 'Available prompts: ["document", "query"]' in answer.json()["error"]


def test_names_of_special_tokens_are_text(transformer_service: LiveService) -> None:
    url, body = transformer_service.url + "/tokenize", {"inputs": "a [SEP] dog", "add_special_tokens": False}
    words = httpx.post(url, json=body).json()[0]
    special = httpx.post(url, json={"inputs": "a"}).json()[0][-1]["id"]
    assert special not in [token["id"] for token in words]
    assert [token["text"] for token in words] == ["a", "[", "SEP", "]", "dog"]
    with_name, plain = embed(transformer_service, ["a [SEP] dog", "a ( SEP ) dog"]).json()
    np.testing.assert_allclose(with_name, plain, atol=1e-5)


def test_texts_without_a_known_token_are_told(service: LiveService) -> None:
    assert embed(service, ["zzz", "a dog", "😀"]).headers["x-pairwright-unknown"] == "2"
    assert "x-pairwright-unknown" not in embed(service, ["zzz a", "a dog"]).headers


# ---- other kinds of models' routes


@pytest.mark.parametrize("raw", [True, False])
def test_rerank_by_cosines(service: LiveService, static_one: SentenceTransformer, raw: bool) -> None:
    texts = TEXTS[:3]
    body = {"query": "a man", "texts": texts, "raw_scores": raw, "return_text": True}
    answer = httpx.post(service.url + "/rerank", json=body)
    vectors = static_one.encode(["a man", *texts], normalize_embeddings=True)
    cosines = vectors[1:] @ vectors[0]
    order = np.argsort(-cosines).tolist()
    assert [rank["index"] for rank in answer.json()] == order
    assert [rank["text"] for rank in answer.json()] == [texts[place] for place in order]
    expected = cosines[order] if raw else (1 + cosines[order]) / 2
    np.testing.assert_allclose([rank["score"] for rank in answer.json()], expected, atol=1e-6)
    assert answer.headers["x-pairwright-scores"] == "bi-encoder cosine"
    assert "bi-encoder" in httpx.get(service.url + "/info").json()["rerank"]


def test_rerank_refuses_what_is_empty(service: LiveService) -> None:
    for body in ({"query": "a", "texts": []}, {"query": "", "texts": ["a"]}, {"query": "a", "texts": ["a", ""]}):
        assert httpx.post(service.url + "/rerank", json=body).status_code in (400, 422)


def test_a_vector_for_each_token(service: LiveService, static_one: SentenceTransformer) -> None:
    answer = httpx.post(service.url + "/embed_all", json={"inputs": ["a dog", "a"]}).json()
    assert [np.shape(rows) for rows in answer] == [(2, DIMENSIONS), (1, DIMENSIONS)]
    np.testing.assert_allclose(np.mean(answer[0], axis=0), static_one.encode("a dog"), atol=1e-6)


def test_a_vector_for_each_token_of_a_transformer(
    transformer_service: LiveService, transformer: SentenceTransformer
) -> None:
    answer = httpx.post(transformer_service.url + "/embed_all", json={"inputs": ["a dog", "no " * 50]}).json()
    assert np.shape(answer[1]) == (MAX_TOKENS, DIMENSIONS)
    expected = transformer.encode("a dog", output_value="token_embeddings").numpy()
    np.testing.assert_allclose(answer[0], expected, atol=1e-5)


@pytest.mark.parametrize("path", ["/predict", "/embed_sparse"])
def test_what_this_model_is_not(service: LiveService, path: str) -> None:
    answer = httpx.post(service.url + path, json={"inputs": "a"})
    assert answer.status_code == 424
    assert answer.json()["error_type"] == "Backend"
    assert path in answer.json()["error"]


# ---- long inputs


def test_truncation_is_counted(transformer_service: LiveService) -> None:
    before = transformer_service.metric("truncated_total")
    answer = embed(transformer_service, ["a dog", "dog " * 40, "cat " * 40])
    assert answer.headers["x-pairwright-truncated"] == "2"
    assert transformer_service.metric("truncated_total") == before + 2


def test_chunks_are_the_mean_of_windows(transformer_service: LiveService, transformer: SentenceTransformer) -> None:
    words = ("dog man river house red blue a the " * 7).split()
    room = MAX_TOKENS - 2
    windows = [" ".join(words[start : start + room]) for start in range(0, len(words), room)]
    counts = [len(window.split()) + 2 for window in windows]
    answer = embed(transformer_service, [" ".join(words), "a dog"], chunk=True)
    assert answer.headers["x-pairwright-windows"] == str(len(windows) + 1)
    assert "x-pairwright-truncated" not in answer.headers
    mean = np.average(transformer.encode(windows), axis=0, weights=counts)
    np.testing.assert_allclose(answer.json()[0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(answer.json()[1], transformer.encode("a dog", normalize_embeddings=True), atol=1e-5)


def test_chunks_of_a_static_student_are_the_whole_text(service: LiveService) -> None:
    text = "dog river " * 400
    assert embed(service, text, chunk=True).json() == embed(service, text).json()
