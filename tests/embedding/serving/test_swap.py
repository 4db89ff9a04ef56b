"""A new version goes live without a failed or a mixed request."""

import asyncio
import itertools
import threading

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from services.embedding.models.base import Vectors
from shared.heartbeat import Heartbeats
from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from shared.redis import command_client
from tests.embedding.conftest import Start
from tests.support.embedding import Gatekeeper, LiveService
from tests.support.versions import publish, static_student

TEXTS = [" ".join(words) for words in itertools.permutations(["a", "dog", "man", "river", "red"], 3)]
SWAPS = 50


class Hammer(threading.Thread):
    """A client that asks without pause and keeps what it finds wrong."""

    def __init__(self, service: LiveService, expected: dict[str, Vectors], seed: int) -> None:
        super().__init__()
        self._service, self._expected = service, expected
        self._random = np.random.default_rng(seed)
        self.stopping = threading.Event()
        self.answers = 0
        self.versions: set[str] = set()
        self.wrong: list[str] = []

    def run(self) -> None:
        with httpx.Client(base_url=self._service.url, timeout=60) as client:
            while not self.stopping.is_set():
                chosen = self._random.integers(0, len(TEXTS), self._random.choice([1, 3, 40]))
                self._ask(client, chosen, openai=bool(self._random.integers(2)))

    def _ask(self, client: httpx.Client, chosen: "np.ndarray[tuple[int], np.dtype[np.int64]]", openai: bool) -> None:
        texts = [TEXTS[number] for number in chosen]
        path, field = ("/v1/embeddings", "input") if openai else ("/embed", "inputs")
        try:
            answer = client.post(path, json={field: texts})
        except httpx.HTTPError as error:
            self.wrong.append(repr(error))
            return
        if answer.status_code != 200:
            self.wrong.append(answer.text)
            return
        version = answer.headers["x-pairwright-version"]
        vectors = [item["embedding"] for item in answer.json()["data"]] if openai else answer.json()
        if openai and answer.json()["model"] != version:
            self.wrong.append("the header and the body name different versions")
        if not np.allclose(vectors, self._expected[version][chosen], atol=1e-6):
            self.wrong.append(f"not the vectors of {version}")
        self.answers += 1
        self.versions.add(version)


@pytest.mark.slow
def test_swaps_under_load(store: ModelStore, start: Start) -> None:
    students = [static_student(seed) for seed in range(4)]
    ids = [publish(store, student, number).id for number, student in enumerate(students)]
    expected = {
        version: student.encode(TEXTS, normalize_embeddings=True)
        for version, student in zip(ids, students, strict=True)
    }
    # A small budget, so that most requests take several batches.
    service = start(max_batch_tokens=30, max_versions=2)
    hammers = [Hammer(service, expected, seed) for seed in range(4)]
    for hammer in hammers:
        hammer.start()
    for swap in range(SWAPS):  # in turn through four of which two stay loaded: each swap loads
        version = ids[swap % len(ids)]
        store.activate(version)
        service.wait_until(lambda version=version: service.serving() == version, f"{version} serves")  # type: ignore[misc]
    for hammer in hammers:
        hammer.stopping.set()
    for hammer in hammers:
        hammer.join()
    assert [wrong for hammer in hammers for wrong in hammer.wrong] == []
    assert min(hammer.answers for hammer in hammers) > 0
    assert set.union(*(hammer.versions for hammer in hammers)) == set(ids)
    assert service.metric("swaps_total") == SWAPS
    assert service.metric("load_seconds_count") >= SWAPS
    assert service.metric("queued_inputs") == 0


def test_a_request_in_flight_keeps_its_version(
    store: ModelStore, static_one: SentenceTransformer, static_two: SentenceTransformer, start: Start
) -> None:
    old, gate = publish(store, static_one, 0).id, Gatekeeper()
    service = start(load=gate.load, max_batch_tokens=8)
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(service.url + "/embed", json={"inputs": TEXTS}, timeout=60))

    gate.shut()
    request = threading.Thread(target=ask)
    request.start()
    gate.entered.wait()  # its first batch of many is being computed
    new = publish(store, static_two, 1).id
    service.wait_until(lambda: service.serving() == new, "the new version serves")
    gate.opened.set()
    request.join()
    assert answers[0].headers["x-pairwright-version"] == old
    np.testing.assert_allclose(answers[0].json(), static_one.encode(TEXTS, normalize_embeddings=True), atol=1e-6)


def test_pinning_by_header(
    store: ModelStore, static_one: SentenceTransformer, static_two: SentenceTransformer, start: Start
) -> None:
    old, _new = publish(store, static_one, 0).id, publish(store, static_two, 1).id
    service = start()

    def ask(version: str) -> httpx.Response:
        return httpx.post(service.url + "/embed", json={"inputs": TEXTS}, headers={"x-pairwright-version": version})

    service.wait_until(lambda: ask(old).status_code == 200, "the previous version is loaded")
    np.testing.assert_allclose(ask(old).json(), static_one.encode(TEXTS, normalize_embeddings=True), atol=1e-6)
    missing = ask("r000009-00000000")
    assert missing.status_code == 404
    assert old in missing.json()["error"]


def test_rollback_takes_no_loading(
    store: ModelStore, static_one: SentenceTransformer, static_two: SentenceTransformer, start: Start
) -> None:
    old = publish(store, static_one, 0).id
    service = start()
    new = publish(store, static_two, 1).id
    service.wait_until(lambda: service.serving() == new, "the new version serves")
    loads = service.metric("load_seconds_count")
    store.activate(old)
    service.wait_until(lambda: service.serving() == old, "the old version serves again")
    assert service.metric("load_seconds_count") == loads


def test_versions_and_their_states(
    store: ModelStore, static_one: SentenceTransformer, static_two: SentenceTransformer, start: Start
) -> None:
    ids = [
        publish(store, student, number, scores={"dev_after": 50.0 + number}).id
        for number, student in enumerate((static_one, static_two, static_student(3)))
    ]
    service = start()
    service.wait_until(lambda: service.metric("load_seconds_count") == 2, "current and previous are loaded")
    listed = httpx.get(service.url + "/versions").json()["versions"]
    assert [(info["id"], info["state"], info["serving"], info["loaded"]) for info in listed] == [
        (ids[0], "published", False, False),
        (ids[1], "previous", False, True),
        (ids[2], "current", True, True),
    ]
    assert listed[2]["scores"] == {"dev_after": 52.0}
    assert listed[2]["round"] == 2


async def announce(url: str, version: str) -> None:
    client = command_client(url)
    await Heartbeats(client, "default").announce(version)
    await client.aclose()


def test_an_announcement_is_heard_before_the_next_poll(
    store: ModelStore, static_one: SentenceTransformer, static_two: SentenceTransformer, server: EmbeddedServer,
    start: Start,
) -> None:  # fmt: skip
    publish(store, static_one, 0)
    service = start(poll_seconds=3600, redis_url=server.url)
    new = publish(store, static_two, 1).id

    def heard() -> bool:
        asyncio.run(announce(server.url, new))  # again, in case it wasn't listening yet
        return service.serving() == new

    service.wait_until(heard, "the announced version serves")


def test_before_the_first_version(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    service = start(ready=False)
    ready = httpx.get(service.url + "/readyz")
    assert ready.status_code == 503
    assert "no version of dataset 'default' is published yet" in ready.json()["checks"]["version"]
    assert httpx.get(service.url + "/livez").status_code == 200
    for path, field in (("/embed", "inputs"), ("/v1/embeddings", "input")):
        answer = httpx.post(service.url + path, json={field: "a"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    assert httpx.get(service.url + "/health").json()["error_type"] == "Unhealthy"
    publish(store, static_one, 0)
    service.wait_until(lambda: httpx.get(service.url + "/health").status_code == 200, "the first version serves")
