"""A damaged version never serves: it is quarantined, with its reason, and what served keeps serving."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from sentence_transformers import SentenceTransformer

from services.embedding.__main__ import load_version
from services.embedding.models.base import Encoder
from services.embedding.serving.loading import FIRST_RETRY_S
from services.embedding.settings import EmbeddingSettings
from shared.manifest import Manifest
from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.damaged_versions import DAMAGE, change_weights, damaged_on_disk, published_wrong
from tests.support.embedding import LiveService
from tests.support.versions import publish

BreakVersion = Callable[[ModelStore, SentenceTransformer, Callable[[Path], None], int], str]
_rounds = itertools.count(1)


@pytest.fixture(scope="module")
def damage_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


@pytest.fixture(scope="module")
def good_service(damage_home: Path, static_one: SentenceTransformer) -> Iterator[LiveService]:
    """A service whose good version serves, whatever damaged ones are published beside it."""
    publish(ModelStore(damage_home / "models" / "default"), static_one, 0)
    service = LiveService(damage_home)
    service.wait_until_ready()
    yield service
    service.stop()


@pytest.mark.parametrize("break_version", [damaged_on_disk, published_wrong])
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_version_never_serves(
    name: str, break_version: BreakVersion, damage_home: Path, transformer: SentenceTransformer,
    good_service: LiveService,
) -> None:  # fmt: skip
    store, service = ModelStore(damage_home / "models" / "default"), good_service
    good = service.serving()
    store.activate(good)
    bad = break_version(store, transformer, DAMAGE[name], next(_rounds))
    service.wait_until(lambda: f"{bad} is quarantined" in service.version_check(), "it is quarantined")
    assert httpx.get(service.url + "/readyz").status_code == 200
    answer = httpx.post(service.url + "/embed", json={"inputs": "a dog"})
    assert (answer.status_code, answer.headers["x-pairwright-version"]) == (200, good)
    states = {info["id"]: info for info in httpx.get(service.url + "/versions").json()["versions"]}
    assert (states[bad]["state"], states[bad]["serving"]) == ("quarantined", False)
    assert states[bad]["reason"]
    pinned = httpx.post(service.url + "/v1/embeddings", json={"input": "a dog", "model": bad})
    assert pinned.status_code == 404


def test_a_pickle_beside_the_weights_is_refused(
    store: ModelStore, transformer: SentenceTransformer, own_service: LiveService
) -> None:
    def add_pickle(folder: Path) -> None:
        (folder / "pytorch_model.bin").write_bytes(b"x")

    bad = damaged_on_disk(store, transformer, add_pickle)
    own_service.wait_until(
        lambda: f"{bad} is quarantined: pytorch_model.bin" in own_service.version_check(), "it is refused"
    )


def test_damage_is_told_once_and_a_later_version_is_taken_up(
    store: ModelStore,
    static_two: SentenceTransformer,
    transformer: SentenceTransformer,
    own_service: LiveService,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = damaged_on_disk(store, transformer, change_weights)
    own_service.wait_until(lambda: bad in own_service.version_check(), "it is quarantined")
    later = publish(store, static_two, 2).id
    own_service.wait_until(lambda: own_service.serving() == later, "the later version serves")
    store.activate(bad)
    last = publish(store, static_two, 3).id
    own_service.wait_until(lambda: own_service.serving() == last, "the last version serves")
    assert sum(f"{bad} is quarantined" in message for message in caplog.messages) == 1
    assert own_service.metric("quarantined_total") == 1


def test_after_a_restart_the_version_before_serves_for_a_damaged_one(
    store: ModelStore, static_one: SentenceTransformer, transformer: SentenceTransformer, start: Start
) -> None:
    good = publish(store, static_one, 0).id
    bad = damaged_on_disk(store, transformer, change_weights)
    service = start(max_versions=1)
    assert service.serving() == good
    assert f"ok; degraded: serving {good}, because {bad} is quarantined" in service.version_check()


def test_nothing_but_damage_is_not_ready_and_says_why(
    store: ModelStore, transformer: SentenceTransformer, start: Start
) -> None:
    bad = damaged_on_disk(store, transformer, change_weights)
    service = start(ready=False)
    service.wait_until(lambda: "quarantined" in service.version_check(), "it is quarantined")
    assert httpx.get(service.url + "/readyz").status_code == 503
    assert f"{bad} is quarantined: {bad}: model.safetensors" in service.version_check()
    answer = httpx.post(service.url + "/v1/embeddings", json={"input": "a dog"})
    assert answer.status_code == 503
    assert bad in answer.json()["error"]["message"]


def test_what_may_pass_is_tried_again(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    good, attempts = publish(store, static_one, 0).id, []

    def load(folder: Path, manifest: Manifest) -> Encoder:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            raise MemoryError("no room")
        return load_version(EmbeddingSettings(), folder, manifest)

    service = start(load=load, ready=False)
    service.wait_until(lambda: f"{good} is quarantined: MemoryError: no room" in service.version_check(), "it failed")
    service.wait_until_ready()
    assert len(attempts) == 2
    assert attempts[1] - attempts[0] >= FIRST_RETRY_S / 2
