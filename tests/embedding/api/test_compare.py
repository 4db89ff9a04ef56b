"""`POST /compare`: the rankings are those of each version alone, and what moved is what differs."""

import httpx
import numpy as np
import pytest

from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.versions import WORDS, publish, static_student

RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, 5)) for _ in range(300)]
QUERY = "a dog near the river"


def order_of(student: object, texts: list[str]) -> list[int]:
    vectors = student.encode([QUERY, *texts], normalize_embeddings=True)  # type: ignore[attr-defined]
    return [int(one) for one in np.argsort(-(vectors[1:] @ vectors[0]), kind="stable")]


def test_two_versions_rank_the_same_texts(store: ModelStore, start: Start) -> None:
    students = [static_student(seed) for seed in range(2)]
    ids = [publish(store, student, number).id for number, student in enumerate(students)]
    service = start()
    body = {"query": QUERY, "texts": TEXTS, "versions": [ids[0], "current"], "top_n": 7}
    answer = httpx.post(service.url + "/compare", json=body)
    assert answer.status_code == 200
    compared, orders = answer.json(), [order_of(student, TEXTS) for student in students]
    assert [one["version"] for one in compared["rankings"]] == ids
    for ranking, order in zip(compared["rankings"], orders, strict=True):
        assert [one["index"] for one in ranking["results"]] == order[:7]
        assert [one["rank"] for one in ranking["results"]] == list(range(1, 8))
        scores = [one["score"] for one in ranking["results"]]
        assert scores == sorted(scores, reverse=True)
    shown = {*orders[0][:7], *orders[1][:7]}
    ranks = {index: [order.index(index) + 1 for order in orders] for index in shown}
    assert {one["index"]: one["ranks"] for one in compared["moved"]} == {
        index: both for index, both in ranks.items() if both[0] != both[1]
    }
    distances = [abs(one["ranks"][0] - one["ranks"][1]) for one in compared["moved"]]
    assert distances == sorted(distances, reverse=True)
    assert answer.headers["x-pairwright-version"] == ", ".join(ids)
    same = httpx.post(service.url + "/compare", json=body | {"versions": ["current", "current"]}).json()
    assert same["moved"] == []


@pytest.mark.slow
def test_five_thousand_texts_and_versions_that_are_not_loaded(store: ModelStore, start: Start) -> None:
    ids = [publish(store, static_student(seed), seed).id for seed in range(4)]
    service = start(max_client_inputs=2048)
    texts = [f"{text} {number % 7 * 'a '}" for number in range(17) for text in TEXTS][:5000]
    body = {"query": QUERY, "texts": texts, "versions": ids[:2], "top_n": 5}
    compared = httpx.post(service.url + "/compare", json=body, timeout=120).json()
    assert [one["version"] for one in compared["rankings"]] == ids[:2]
    assert service.serving() == ids[3]


def test_what_cannot_be_compared_says_why(store: ModelStore, start: Start) -> None:
    id_ = publish(store, static_student(0), 0).id
    service = start()
    good = {"query": "a", "texts": ["a"], "versions": [id_, "current"]}
    for change, status, part in (
        ({"versions": [id_, "previous"]}, 404, "previous"),
        ({"versions": [id_, "r000009-00000000"]}, 404, id_),
        ({"versions": [id_]}, 422, "versions"),
        ({"texts": []}, 422, "texts"),
        ({"texts": ["a", ""]}, 422, "texts.1"),
        ({"texts": ["a"] * 5001}, 422, "texts"),
        ({"query": ""}, 422, "query"),
        ({"top_n": 0}, 422, "top_n"),
        ({"model": "current"}, 422, "model"),
    ):
        answer = httpx.post(service.url + "/compare", json=good | change)
        assert (answer.status_code, part in answer.json()["detail"]) == (status, True), (change, answer.text)
    pinned = httpx.post(service.url + "/compare", json=good, headers={"x-pairwright-version": id_})
    assert (pinned.status_code, "leave the header" in pinned.text) == (422, True)
