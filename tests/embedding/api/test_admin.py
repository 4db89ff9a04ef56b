"""Promotion, rollback, reload and pinning over HTTP, and who may do it."""

import shutil

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from services.embedding.serving.registry import SPARE_BYTES
from services.embedding.settings import EmbeddingSettings
from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.damaged_versions import change_weights, damaged_on_disk
from tests.support.embedding import LiveService
from tests.support.versions import publish, static_student

TEXTS = ["a dog", "the stock market fell on monday"]


def publish_some(store: ModelStore, number: int) -> tuple[list[str], list[SentenceTransformer]]:
    students = [static_student(seed) for seed in range(number)]
    return [publish(store, student, round_).id for round_, student in enumerate(students)], students


def ask(service: LiveService, version: str | None = None) -> httpx.Response:
    headers = {"x-pairwright-version": version} if version else {}
    return httpx.post(service.url + "/embed", json={"inputs": TEXTS}, headers=headers)


def test_promotion_and_rollback(store: ModelStore, start: Start) -> None:
    ids, students = publish_some(store, 3)
    service = start()
    answer = httpx.post(f"{service.url}/versions/{ids[0]}/activate")
    assert (answer.status_code, answer.json()) == (200, {"version": ids[0], "previous": ids[2], "pinned": None})
    # It serves at once, not at the next poll, and the pointer is the store's: a restart keeps it.
    assert answer.headers["x-pairwright-version"] == service.serving() == store.current() == ids[0]
    np.testing.assert_allclose(ask(service).json(), students[0].encode(TEXTS, normalize_embeddings=True), atol=1e-6)
    rolled_back = httpx.post(f"{service.url}/versions/previous/activate")
    assert rolled_back.json() == {"version": ids[2], "previous": ids[0], "pinned": None}
    assert ask(service).headers["x-pairwright-version"] == ids[2]
    assert httpx.get(f"{service.url}/versions/current").json()["id"] == ids[2]
    service.stop()
    assert start().serving() == ids[2]


def test_a_pinned_version_serves_whatever_is_published_until_it_is_unpinned(store: ModelStore, start: Start) -> None:
    ids, _ = publish_some(store, 2)
    service = start()
    assert httpx.get(f"{service.url}/versions").json()["pinned"] is None
    pinned = httpx.post(f"{service.url}/versions/{ids[0]}/pin")
    assert pinned.json() == {"version": ids[0], "previous": ids[1], "pinned": ids[0]}
    assert pinned.headers["x-pairwright-version"] == service.serving() == ids[0]
    published = publish(store, static_student(7), 7).id
    listed = httpx.post(f"{service.url}/versions/reload").json()
    assert (listed["pinned"], service.serving()) == (ids[0], ids[0])
    assert published in {info["id"] for info in listed["versions"]}
    assert ask(service, published).headers["x-pairwright-version"] == published
    service.stop()
    service = start()
    assert service.serving() == ids[0], "a restart keeps the pin"
    moved = httpx.post(f"{service.url}/versions/{published}/activate").json()
    assert moved == {"version": published, "previous": ids[0], "pinned": published}
    assert httpx.delete(f"{service.url}/versions/pin").json() == {"version": published, "pinned": None}
    newest = publish(store, static_student(8), 8).id
    service.wait_until(lambda: service.serving() == newest, "what is published serves again")
    assert httpx.post(f"{service.url}/versions/r000009-00000000/pin").status_code == 404


def test_an_unknown_version_changes_nothing_and_is_told_what_there_is(store: ModelStore, start: Start) -> None:
    ids, _ = publish_some(store, 2)
    service = start()
    for name in ("r000009-00000000", "nonsense", "..%2F..%2Fetc"):
        answer = httpx.post(f"{service.url}/versions/{name}/activate")
        assert answer.status_code == 404
    assert all(id_ in answer.text for id_ in ids) or "Not found" in answer.text
    assert ids[0] in httpx.post(f"{service.url}/versions/r000009-00000000/activate").json()["detail"]
    assert service.serving() == store.current() == ids[1]


def test_a_damaged_version_is_not_activated_and_the_pointer_stays(
    store: ModelStore, transformer: SentenceTransformer, own_service: LiveService
) -> None:
    good = own_service.serving()
    bad = damaged_on_disk(store, transformer, change_weights)
    store.activate(good)
    answer = httpx.post(f"{own_service.url}/versions/{bad}/activate")
    assert answer.status_code == 409
    assert "model.safetensors was changed" in answer.json()["detail"]
    assert own_service.serving() == store.current() == good


def test_a_store_that_cannot_be_written_is_said_so(store: ModelStore, start: Start) -> None:
    ids, _ = publish_some(store, 2)
    service = start()
    # Stands in the way of the pointer's temporary file: root may write anywhere, so permissions would prove nothing.
    (store.root / ".previous.tmp").mkdir()
    answer = httpx.post(f"{service.url}/versions/{ids[0]}/activate")
    assert answer.status_code == 409
    assert "can't be written" in answer.json()["detail"]
    assert service.serving() == store.current() == ids[1]


def test_reload_gives_a_mended_version_another_chance(
    store: ModelStore, transformer: SentenceTransformer, own_service: LiveService
) -> None:
    bad = damaged_on_disk(store, transformer, change_weights)
    own_service.wait_until(lambda: "quarantined" in own_service.version_check(), "it is quarantined")
    assert own_service.metric("degraded") == 1
    elsewhere = ModelStore(store.root.with_name("elsewhere"))
    shutil.rmtree(store.root / "versions" / bad)
    shutil.copytree(elsewhere.path(bad), store.root / "versions" / bad)
    listed = httpx.post(f"{own_service.url}/versions/reload")
    assert listed.status_code == 200
    assert {info["id"]: info["serving"] for info in listed.json()["versions"]}[bad]
    assert (own_service.serving(), own_service.version_check(), own_service.metric("degraded")) == (bad, "ok", 0)


def test_reload_looks_at_once(store: ModelStore, static_two: SentenceTransformer, start: Start) -> None:
    publish_some(store, 1)
    service = start(poll_seconds=3600)
    new = publish(store, static_two, 1).id
    assert httpx.post(f"{service.url}/versions/reload").headers["x-pairwright-version"] == new == service.serving()


@pytest.mark.parametrize(
    ("keys", "admins", "sent", "status"),
    [
        ("", "", None, 200),
        ("one", "", "one", 200),
        ("one", "", "two", 401),
        ("one", "boss", None, 401),
        ("one", "boss", "one", 403),
        ("one", "boss, deputy", "deputy", 200),
        ("", "boss", None, 403),
        ("", "boss", "boss", 200),
    ],
)
def test_who_may_activate(
    store: ModelStore, start: Start, keys: str, admins: str, sent: str | None, status: int
) -> None:
    ids, _ = publish_some(store, 2)
    service = start(api_keys=keys, admin_keys=admins)
    headers = {"Authorization": f"Bearer {sent}"} if sent else {}
    for method, path in (
        ("POST", f"/versions/{ids[0]}/activate"), ("POST", "/versions/reload"), ("DELETE", "/versions/pin"),
        ("POST", f"/versions/{ids[0]}/pin"),
    ):  # fmt: skip
        assert httpx.request(method, service.url + path, headers=headers).status_code == status
    assert store.current() == (ids[0] if status == 200 else ids[1])
    if status == 200 and sent:
        assert httpx.post(service.url + "/embed", json={"inputs": "a"}, headers=headers).status_code == 200


def test_without_keys_no_web_page_may(store: ModelStore, start: Start) -> None:
    ids, _ = publish_some(store, 2)
    service = start()
    answer = httpx.post(f"{service.url}/versions/{ids[0]}/activate", headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert "PAIRWRIGHT_EMBEDDING_ADMIN_KEYS" in answer.json()["detail"]
    assert store.current() == ids[1]


@pytest.mark.slow
def test_any_published_version_can_be_pinned(store: ModelStore, start: Start) -> None:
    ids, students = publish_some(store, 5)
    service = start(max_versions=3)
    for version, student in zip(ids, students, strict=True):
        answer = ask(service, version)
        assert answer.headers["x-pairwright-version"] == version
        np.testing.assert_allclose(answer.json(), student.encode(TEXTS, normalize_embeddings=True), atol=1e-6)
        assert service.metric("loaded_versions") <= 3
    loaded = {info["id"] for info in httpx.get(service.url + "/versions").json()["versions"] if info["loaded"]}
    assert {ids[4], ids[3]} <= loaded, "pins never push out what the pointers name"
    assert service.serving() == ids[4]


def test_pinned_versions_stay_while_there_is_room(store: ModelStore, start: Start) -> None:
    ids, _ = publish_some(store, 4)
    service = start(max_versions=5)
    for version in ids[:2]:
        assert ask(service, version).status_code == 200
    assert httpx.post(f"{service.url}/versions/reload").status_code == 200
    assert service.metric("loaded_versions") == 4


def test_with_room_for_one_version_a_pin_is_refused_and_told_why(store: ModelStore, start: Start) -> None:
    ids, _ = publish_some(store, 2)
    service = start(max_versions=1)
    service.wait_until(lambda: ask(service, ids[0]).status_code == 404, "the pin is refused")
    answer = ask(service, ids[0])
    assert "PAIRWRIGHT_EMBEDDING_MAX_VERSIONS=1" in answer.json()["error"]


def test_when_memory_is_short_only_the_serving_version_stays(
    store: ModelStore, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, _ = publish_some(store, 3)
    free = [2**40]
    # What the machine says is the only thing that is not real here: nobody can take its memory away on demand.
    monkeypatch.setattr("services.embedding.serving.registry.free_memory", lambda: free[0])
    service = start()
    assert ask(service, ids[0]).status_code == 200
    assert service.metric("loaded_versions") == 3
    free[0] = SPARE_BYTES - 1
    service.wait_until(lambda: service.metric("loaded_versions") == 2, "the pinned version is dropped")
    answer = ask(service, ids[0])
    assert answer.status_code == 404
    assert "memory is too short" in answer.json()["error"]
    assert httpx.post(f"{service.url}/versions/{ids[0]}/activate").status_code == 200, (
        "what is to serve is loaded anyway"
    )
    assert ask(service).headers["x-pairwright-version"] == ids[0]


def test_keys_are_split() -> None:
    settings = EmbeddingSettings.model_validate({"admin_keys": " a, ,b ", "cors_origins": "https://x.example , *"})
    assert (settings.admins, settings.origins) == (("a", "b"), ("https://x.example", "*"))


def test_a_candidate_that_the_gate_refused_is_promoted_when_that_is_said(store: ModelStore, start: Start) -> None:
    (published,), _ = publish_some(store, 1)
    refused = publish(store, static_student(5), 5, rejection="worse by far").id
    service = start()
    assert [one["id"] for one in httpx.get(f"{service.url}/versions").json()["candidates"]] == [refused]
    assert httpx.post(f"{service.url}/versions/{refused}/activate").status_code == 404
    answer = httpx.post(f"{service.url}/versions/{refused}/activate?rejected=true")
    assert answer.json() == {"version": refused, "previous": published, "pinned": None}
    assert service.serving() == store.current() == refused
    assert httpx.get(f"{service.url}/versions").json()["candidates"] == []
    assert httpx.post(f"{service.url}/versions/{refused}/activate?rejected=true").status_code == 200
    assert httpx.post(f"{service.url}/versions/r000009-00000000/activate?rejected=true").status_code == 404
