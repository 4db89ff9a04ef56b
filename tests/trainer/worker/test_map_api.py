"""Texts and maps over HTTP: computed in a process of their own, kept, and never during a round."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.routes import routers
from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from shared.settings import Settings
from tests.support.pairs import make_pairs
from tests.support.versions import publish, static_student
from tests.support.worker import LocalTrainer, Outcomes, local_trainer, served

pytestmark = pytest.mark.anyio


@pytest.fixture
async def trainer(
    tmp_path: Path, server: EmbeddedServer, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LocalTrainer]:
    """A trainer with 30 pairs and two versions; what its child processes read of it is in the environment."""
    settings = Settings(home=tmp_path, redis_url=server.url, student="static", dataset=dataset)
    for name in ("home", "dataset"):
        monkeypatch.setenv(f"PAIRWRIGHT_{name.upper()}", str(getattr(settings, name)))
    store = ModelStore(settings.models_dir)
    for seed in range(2):
        publish(store, static_student(seed), seed)
    async with local_trainer(settings, Outcomes(store), round_pairs=10_000, round_min_pairs=10_000) as running:
        await running.send(make_pairs(30))
        await running.wait_for_pairs(30)
        yield running


@pytest.fixture
async def client(trainer: LocalTrainer) -> AsyncIterator[httpx.AsyncClient]:
    api = DatasetApi("127.0.0.1", has_keys=False)
    with api.answered_by(trainer.parts):
        async with served(routers(api)) as client:
            yield client


async def follow(client: httpx.AsyncClient, **query: Any) -> tuple[httpx.Response, list[dict[str, Any]]]:
    """The answer that isn't 202, and the progress before."""
    told = list[dict[str, Any]]()
    while True:
        answer = await client.get("/map", params=query)
        if answer.status_code != 202:
            return answer, told
        told.append(answer.json())
        assert answer.headers["retry-after"] == "1"
        await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_map_is_computed_once_and_again_after_a_deletion(
    client: httpx.AsyncClient, trainer: LocalTrainer
) -> None:
    answer, told = await follow(client)
    assert answer.status_code == 200, answer.text
    assert told[0] == {"state": "starting", "done": 0, "of": 0}
    assert "loading" in {one["state"] for one in told}
    made = answer.json()
    assert (made["version"], made["pairs"], made["passages"]) == (trainer.parts.store.current(), 30, 0)
    texts = {text for pair in make_pairs(30) for text in (pair.sentence1, pair.sentence2)}
    assert set(made["points"]["text"]) == texts
    assert {len(column) for column in made["points"].values()} == {len(texts)}
    again, told = await follow(client)
    assert (again.json(), told) == (made, [])
    assert (await client.patch("/pairs/1", json={"score": 0.5})).status_code == 200
    assert (await follow(client))[1] == [], "a correction leaves the map"
    deleted = make_pairs(30)[3]
    [found] = (await client.get("/pairs", params={"text": deleted.sentence2, "limit": 1})).json()["pairs"]
    assert (await client.delete(f"/pairs/{found['id']}")).json() == {"deleted": 1}
    assert deleted.sentence2 in made["points"]["text"]
    assert (await client.get("/map")).status_code == 202, "it is computed anew"


async def test_a_map_waits_for_the_round_that_runs(client: httpx.AsyncClient, trainer: LocalTrainer) -> None:
    trainer.parts.live.begin(7, {})
    for _ in range(2):
        waits = await client.get("/map")
        assert (waits.status_code, waits.json()["state"]) == (202, "waiting for round 7")
    trainer.parts.live.end()


@pytest.mark.slow
async def test_a_map_that_fails_says_why_once(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_DATASET", "elsewhere")  # so the process finds no version
    answer, told = await follow(client)
    assert told
    assert answer.status_code == 500
    assert "there is no version" in answer.json()["detail"]
    assert (await client.get("/map")).status_code == 202, "it is tried again"


async def test_texts_are_drawn(client: httpx.AsyncClient) -> None:
    texts = (await client.get("/texts", params={"limit": 9, "seed": 3})).json()["texts"]
    assert len({one["text"] for one in texts}) == 9
    assert set(texts[0]) == {"id", "text", "kind", "label", "source"}
    assert (await client.get("/texts", params={"limit": 9, "seed": 3})).json()["texts"] == texts


async def test_bad_questions_are_named(client: httpx.AsyncClient) -> None:
    for path, status, part in (
        ("/map?version=r000009-00000000", 404, "no version"), ("/map?version=..%2F..", 404, "no version"),
        ("/map?limit=0", 422, "limit"), ("/map?limit=20001", 422, "limit"), ("/map?versions=current", 422, "versions"),
        ("/texts?limit=5001", 422, "limit"), ("/texts?seed=-1", 422, "seed"),
    ):  # fmt: skip
        answer = await client.get(path)
        assert (answer.status_code, part in answer.json()["detail"]) == (status, True), path
