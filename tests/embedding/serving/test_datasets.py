"""One service, several datasets: their versions are named `dataset@version`, loaded when asked for, and give way."""

import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from openai import OpenAI
from sentence_transformers import SentenceTransformer

from services.embedding.models.base import Vectors
from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.embedding import LiveService
from tests.support.versions import publish, static_student

TEXTS = ["a man is playing a guitar", "a dog", "no"]
HEADER = "x-pairwright-version"


@pytest.fixture
def other(tmp_path: Path) -> ModelStore:
    """The empty store of another dataset in the same home."""
    return ModelStore(tmp_path / "models" / "hotel")


def embed(service: LiveService, version: str) -> httpx.Response:
    return httpx.post(service.url + "/embed", json={"inputs": TEXTS}, headers={HEADER: version})


def unit(student: SentenceTransformer) -> Vectors:
    return np.asarray(student.encode(TEXTS, normalize_embeddings=True))


def test_each_dataset_answers_with_its_own_versions(
    store: ModelStore, other: ModelStore, static_one: SentenceTransformer, static_two: SentenceTransformer, start: Start
) -> None:
    own = publish(store, static_one, 0).id
    first, second = publish(other, static_one, 0).id, publish(other, static_two, 1).id
    service = start()
    for name, version, student in [
        ("hotel@", f"hotel@{second}", static_two),
        ("hotel@current", f"hotel@{second}", static_two),
        (f"hotel@{second}", f"hotel@{second}", static_two),
        ("hotel@previous", f"hotel@{first}", static_one),
        ("default@current", own, static_one),
        (f"default@{own}", own, static_one),
        ("", own, static_one),
    ]:
        answer = embed(service, name)
        assert answer.status_code == 200, answer.text
        assert answer.headers[HEADER] == version
        np.testing.assert_allclose(answer.json(), unit(student), atol=1e-6)

    client = OpenAI(base_url=service.url + "/v1", api_key="none")
    answered = client.embeddings.create(model="hotel@current", input=TEXTS)
    assert answered.model == f"hotel@{second}"
    np.testing.assert_allclose([row.embedding for row in answered.data], unit(static_two), atol=1e-6)
    assert f"hotel@{second}" in [model.id for model in client.models.list()]

    body = {"query": "a man", "texts": TEXTS, "versions": ["current", "hotel@current"]}
    compared = httpx.post(service.url + "/compare", json=body)
    assert [one["version"] for one in compared.json()["rankings"]] == [own, f"hotel@{second}"]


def test_a_new_version_of_another_dataset_is_heard_of_at_once(
    store: ModelStore, other: ModelStore, static_one: SentenceTransformer, static_two: SentenceTransformer, start: Start
) -> None:
    publish(store, static_one, 0)
    publish(other, static_one, 0)
    service = start(poll_seconds=60)
    np.testing.assert_allclose(embed(service, "hotel@current").json(), unit(static_one), atol=1e-6)
    second = publish(other, static_two, 1).id
    assert embed(service, "hotel@current").headers[HEADER] == f"hotel@{second}"


def test_the_one_that_was_named_longest_ago_gives_way(
    store: ModelStore, other: ModelStore, static_one: SentenceTransformer, start: Start
) -> None:
    own = publish(store, static_one, 0).id
    versions = [publish(other, static_student(seed), seed).id for seed in (1, 2, 3)]
    service = start(max_versions=3)  # the one that serves, and two that callers name
    for version in (versions[0], versions[1], versions[0], versions[2]):
        assert embed(service, f"hotel@{version}").status_code == 200
    loaded = {model["id"] for model in httpx.get(service.url + "/v1/models").json()["data"]}
    assert loaded == {"current", own, f"hotel@{versions[0]}", f"hotel@{versions[2]}"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hotel@r000007-0123abcd", "dataset 'hotel': there is no version 'r000007-0123abcd'"),
        ("nowhere@current", "dataset 'nowhere': there is no version 'current'; published: none yet"),
        ("../default@current", "there is no version '../default@current'"),
        ("Hotel@current", "there is no version 'Hotel@current'"),
        ("hotel@../default", "dataset 'hotel': there is no version '../default'"),
    ],
)
def test_what_is_not_there_is_named(
    store: ModelStore, other: ModelStore, static_one: SentenceTransformer, start: Start, name: str, said: str
) -> None:
    publish(store, static_one, 0)
    publish(other, static_one, 0)
    service = start()
    answer = embed(service, name)
    assert answer.status_code == 404
    assert said in answer.text
    assert embed(service, "").status_code == 200


def test_a_damaged_version_of_another_dataset_stops_nothing(
    store: ModelStore, other: ModelStore, static_one: SentenceTransformer, start: Start
) -> None:
    publish(store, static_one, 0)
    bad = publish(other, static_one, 0).id
    (other.path(bad) / "modules.json").write_text("[]")
    service = start()
    answer = embed(service, "hotel@current")
    assert answer.status_code == 404
    assert "is quarantined" in answer.text
    assert httpx.get(service.url + "/readyz").status_code == 200


def test_a_batch_of_another_dataset_survives_a_restart(
    store: ModelStore, other: ModelStore, static_one: SentenceTransformer, static_two: SentenceTransformer, start: Start
) -> None:
    publish(store, static_one, 0)
    version = publish(other, static_two, 0).id
    lines = "".join(json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(TEXTS))
    service = start()
    submitted = httpx.post(service.url + "/batches", content=lines, headers={HEADER: "hotel@current"})
    assert submitted.status_code == 202, submitted.text
    service.stop()
    publish(other, static_one, 1)  # the batch stays with the version that it was sent to
    service = start()
    url = service.url + submitted.headers["location"]
    service.wait_until(lambda: httpx.get(url).json()["state"] != "open", "the batch ends")
    assert httpx.get(url).json()["state"] == "done"
    result = httpx.get(url + "/result")
    assert result.headers[HEADER] == f"hotel@{version}"
    vectors = [json.loads(line)["embedding"] for line in result.text.splitlines()]
    np.testing.assert_allclose(vectors, unit(static_two), atol=1e-6)
