"""OpenAI's protocol, spoken by OpenAI's own client."""

import httpx
import numpy as np
import openai
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.embedding import LiveService
from tests.support.versions import DIMENSIONS, publish, static_student

TEXTS = ["A man is playing a guitar.", "a dog", "the stock market fell on monday"]


def client(service: LiveService, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=service.url + "/v1", api_key=key, max_retries=0)


def test_base64_which_the_client_asks_for_by_itself(service: LiveService, static_one: SentenceTransformer) -> None:
    answer = client(service).embeddings.create(model="current", input=TEXTS)
    vectors = np.asarray([item.embedding for item in answer.data], dtype=np.float32)
    np.testing.assert_allclose(vectors, static_one.encode(TEXTS, normalize_embeddings=True), atol=1e-6)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.model == service.serving()


def test_float_and_base64_say_the_same(service: LiveService) -> None:
    caller = client(service)
    as_base64 = caller.embeddings.create(model="current", input=TEXTS[0])
    as_float = caller.embeddings.create(model="current", input=TEXTS[0], encoding_format="float", user="me")
    vectors = [np.asarray(answer.data[0].embedding, dtype=np.float32) for answer in (as_base64, as_float)]
    assert np.array_equal(vectors[0], vectors[1])


def test_float_is_the_default_on_the_wire(service: LiveService) -> None:
    for path in ("/v1/embeddings", "/embeddings"):
        answer = httpx.post(service.url + path, json={"input": "a dog"}).json()
        assert np.shape(answer["data"][0]["embedding"]) == (DIMENSIONS,)


def test_usage_counts_tokens(transformer_service: LiveService, transformer: SentenceTransformer) -> None:
    answer = client(transformer_service).embeddings.create(model="current", input=[*TEXTS, "a dog", "dog " * 99])
    masks = [transformer.preprocess([text])["attention_mask"].sum().item() for text in [*TEXTS, "a dog", "dog " * 99]]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(masks)


def test_models_are_the_loaded_versions(
    store: ModelStore, static_one: SentenceTransformer, static_two: SentenceTransformer, start: Start
) -> None:
    ids = [publish(store, student, number).id for number, student in enumerate((static_one, static_two))]
    service = start()
    service.wait_until(lambda: len(client(service).models.list().data) == 3, "the previous version is loaded")
    assert {model.id for model in client(service).models.list()} == {"current", *ids}
    assert client(service).models.retrieve(ids[0]).id == ids[0]
    for version, student in zip(ids, (static_one, static_two), strict=True):
        answer = client(service).embeddings.create(model=version, input=TEXTS)
        assert answer.model == version
        expected = student.encode(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose([item.embedding for item in answer.data], expected, atol=1e-6)


@pytest.mark.parametrize("model", ["text-embedding-3-small", "r000009-00000000", "previous", "../current"])
def test_an_unknown_model_is_404_and_told_what_there_is(service: LiveService, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client(service).embeddings.create(model=model, input="a dog")
    assert error.value.code == "model_not_found"
    assert service.serving() in error.value.message
    with pytest.raises(openai.NotFoundError):
        client(service).models.retrieve(model.replace("/", "-"))


@pytest.mark.parametrize("fields", [{}, {"model": None}, {"model": ""}, {"model": "pairwright"}, {"model": "current"}])
def test_names_of_the_version_that_serves(service: LiveService, fields: dict[str, object]) -> None:
    answer = httpx.post(service.url + "/v1/embeddings", json={"input": "a dog"} | fields)
    assert answer.json()["model"] == service.serving()


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_refused_with_the_remedy(service: LiveService, tokens: list[int] | list[list[int]]) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as error:
        client(service).embeddings.create(model="current", input=tokens)
    assert error.value.param == "input"


@pytest.mark.parametrize("header", [None, "current", "pairwright"])
def test_a_version_is_pinned_by_body_or_header(
    store: ModelStore, static_one: SentenceTransformer, start: Start, header: str | None
) -> None:
    old, new = publish(store, static_one, 0).id, publish(store, static_student(seed=5), 1).id
    url = start().url + "/v1/embeddings"

    def ask(model: str | None, pin: str | None) -> httpx.Response:
        headers = {} if pin is None else {"x-pairwright-version": pin}
        return httpx.post(url, json={"input": "a dog"} | ({} if model is None else {"model": model}), headers=headers)

    for model in (None, "", "current", "pairwright"):
        assert ask(model, old).json()["model"] == old, "the header pins"
        assert ask(model, "previous").json()["model"] == old
        assert ask(model, header).json()["model"] == new
    for name in (old, "previous", "previous:latest"):
        assert ask(name, header).json()["model"] == old
    assert ask("previous", old).json()["model"] == old
    for model, pin in ((old, new), (new, "previous")):
        answer = ask(model, pin)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "conflicting_versions")
        assert model in answer.json()["error"]["message"]


def test_what_does_not_exist_is_said_not_to(service: LiveService) -> None:
    for model in ("previous", "r000009-01234567", "text-embedding-3-small"):
        answer = httpx.post(service.url + "/v1/embeddings", json={"input": "a", "model": model})
        assert answer.status_code == 404
        assert answer.json()["error"]["message"].startswith("there is no ")
        assert "current" in answer.json()["error"]["message"]


def test_prompts_and_normalisation(transformer_service: LiveService) -> None:
    url = transformer_service.url
    raw = httpx.post(url + "/v1/embeddings", json={"input": "a dog", "normalize": False}).json()["data"][0]["embedding"]
    assert raw == httpx.post(url + "/embed", json={"inputs": "a dog", "normalize": False}).json()[0]
    assert httpx.post(url + "/v1/embeddings", json={"input": "a", "prompt_name": "query"}).status_code == 200
    answer = httpx.post(url + "/v1/embeddings", json={"input": "a", "prompt_name": "x"})
    assert "Available prompts" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["int8", "ubinary"])
def test_smaller_numbers_come_as_numbers_to_openais_library(
    service: LiveService, static_one: SentenceTransformer, kind: str
) -> None:
    answer = client(service).embeddings.create(model="current", input=TEXTS, extra_body={"output_dtype": kind})
    vectors = static_one.encode(TEXTS, normalize_embeddings=True)
    if kind == "int8":
        int8 = np.asarray([item.embedding for item in answer.data])
        assert ((int8 * vectors).sum(axis=1) / np.linalg.norm(int8, axis=1)).min() > 0.998
    else:
        assert np.array_equal([item.embedding for item in answer.data], quantize_embeddings(vectors, kind))


def test_the_type_decides_where_both_formats_are_named(service: LiveService) -> None:
    def embedding(**fields: object) -> object:
        body = {"input": "a dog"} | fields
        return httpx.post(service.url + "/v1/embeddings", json=body).json()["data"][0]["embedding"]

    as_base64 = embedding(encoding_format="base64")
    assert embedding(output_dtype="base64") == embedding(embedding_types=["base64"]) == as_base64
    assert embedding(output_dtype="float", encoding_format="base64") == as_base64
    assert isinstance(embedding(output_dtype="int8", encoding_format="base64"), list)


@pytest.mark.parametrize("field", ["truncate_prompt_tokens", "normalise", "embed_dtype"])
def test_a_field_that_would_do_nothing_is_refused(service: LiveService, field: str) -> None:
    answer = httpx.post(service.url + "/v1/embeddings", json={"input": "a", field: "x", "user": "me"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_models_say_how_much_waits(service: LiveService) -> None:
    model = httpx.get(service.url + "/v1/models").json()["data"][0]
    assert model["stats"] == {"queue_fraction": 0.0, "queue_absolute": 0, "results_pending": 0}
    assert (model["backend"], model["capabilities"]) == ("static", ["embed"])


def test_dimensions(service: LiveService) -> None:
    embeddings = client(service).embeddings
    assert len(embeddings.create(model="current", input="a dog", dimensions=DIMENSIONS).data[0].embedding) == DIMENSIONS
    for wrong in (1, DIMENSIONS - 1, DIMENSIONS + 1, 0, -1):
        with pytest.raises(openai.BadRequestError) as error:
            embeddings.create(model="current", input="a dog", dimensions=wrong)
        assert error.value.param == "dimensions"


def test_dimensions_of_a_version_that_was_trained_for_it(
    store: ModelStore, static_one: SentenceTransformer, start: Start
) -> None:
    publish(store, static_one, 0, matryoshka=[8, 4])
    answer = client(start()).embeddings.create(model="current", input=TEXTS, dimensions=4)
    expected = static_one.encode(TEXTS, truncate_dim=4, normalize_embeddings=True)
    np.testing.assert_allclose([item.embedding for item in answer.data], expected, atol=1e-6)


def test_keys(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    publish(store, static_one, 0)
    service = start(api_keys="first, second")
    assert client(service, "second").embeddings.create(model="current", input="a dog").data
    with pytest.raises(openai.AuthenticationError) as error:
        client(service, "third").embeddings.create(model="current", input="a dog")
    assert error.value.code == "invalid_api_key"
    assert httpx.post(service.url + "/embed", json={"inputs": "a"}).json()["error_type"] == "Validation"
    assert httpx.get(service.url + "/versions").headers["content-type"] == "application/problem+json"
