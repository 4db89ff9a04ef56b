"""The pairs over HTTP, from a trainer that works: pages, export, corrections, deletion of one."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.trainer.dataset.files import read
from services.trainer.dataset.store import Dataset
from services.trainer.worker.browse_api import browse_router
from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.pairs_api import pairs_router
from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from shared.settings import Settings
from shared.stream import Append, Offer
from tests.support.pairs import make_pairs, records
from tests.support.worker import LocalTrainer, Outcomes, local_trainer, publish_something, served

pytestmark = pytest.mark.anyio

HOSTILE = '<script>alert("1")</script> \u2066 "quoted", \\'
PAIRS = [*make_pairs(30), make_pairs(31)[-1].model_copy(update={"sentence2": HOSTILE})]


@pytest.fixture
async def trainer(tmp_path: Path, server: EmbeddedServer, dataset: str) -> AsyncIterator[LocalTrainer]:
    """A trainer that has collected `PAIRS` and starts a round only when it is asked."""
    settings = Settings(home=tmp_path, redis_url=server.url, student="static", dataset=dataset)
    store = ModelStore(settings.models_dir)
    publish_something(store)
    async with local_trainer(settings, Outcomes(store), round_pairs=10_000, round_min_pairs=10_000) as running:
        await running.send(PAIRS)
        await running.wait_for_pairs(len(PAIRS))
        yield running


@pytest.fixture
async def client(trainer: LocalTrainer) -> AsyncIterator[httpx.AsyncClient]:
    api = DatasetApi("127.0.0.1", has_keys=False)
    with api.answered_by(trainer.parts):
        async with served([browse_router(api), pairs_router(api)]) as client:
            yield client


async def test_pages_follow_each_other_to_the_end(client: httpx.AsyncClient) -> None:
    for order in ("newest", "oldest"):
        ids, cursor, query = list[int](), "", {"limit": 9, "order": order}
        while cursor is not None:
            page = (await client.get("/pairs", params=query | ({"cursor": cursor} if cursor else {}))).json()
            ids, cursor = ids + [pair["id"] for pair in page["pairs"]], page["next"]
            assert page["total"] == 31
        assert ids == sorted(range(1, 32), reverse=order == "newest")
    [pair] = (await client.get("/pairs", params={"text": "<script>"})).json()["pairs"]
    expected = {"sentence2": HOSTILE, "job": "job", "task": "sts", "label": "1", "checked": False, "corrected": False}
    assert expected.items() <= pair.items()
    assert (pair["cosine"], pair["version"], pair["collected"][-1]) == (None, None, "Z")


async def test_the_most_surprising_come_first(client: httpx.AsyncClient, trainer: LocalTrainer) -> None:
    assert (await client.get("/pairs", params={"order": "surprise"})).json()["pairs"] == []
    pairs = (await client.get("/pairs", params={"score": 1})).json()["pairs"]
    cosines = {pair["id"]: 0.1 * place for place, pair in enumerate(pairs)}
    await trainer.parts.dataset.run(lambda dataset: dataset.set_cosines("r000001-00000000", cosines.items()))
    ids, cursor = list[int](), ""
    while cursor is not None:
        query: dict[str, str | int] = {"order": "surprise", "limit": 4, **({"cursor": cursor} if cursor else {})}
        page = (await client.get("/pairs", params=query)).json()
        ids, cursor = ids + [pair["id"] for pair in page["pairs"]], page["next"]
        assert {pair["version"] for pair in page["pairs"]} <= {"r000001-00000000"}
    assert ids == [pair["id"] for pair in pairs]


async def test_what_is_selected_is_exported_as_a_file_that_can_be_imported(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    everything = await client.get("/pairs", headers={"Accept": "application/jsonl"})
    assert everything.headers["content-type"] == "application/jsonl"
    assert "attachment" in everything.headers["content-disposition"]
    assert len(everything.text.splitlines()) == 31
    some = await client.get("/pairs", params={"format": "jsonl", "order": "oldest", "score": 0.5, "limit": 4})
    rows = list(map(json.loads, some.text.splitlines()))
    assert [row["score"] for row in rows] == [0.5] * 4
    assert rows == (await client.get("/pairs", params={"order": "oldest", "score": 0.5, "limit": 4})).json()["pairs"]
    (tmp_path / "export.jsonl").write_text(everything.text)
    assert {(row["sentence1"], row["sentence2"], row["score"]) for _, row in read(tmp_path / "export.jsonl")} == {
        (pair.sentence1, pair.sentence2, pair.score) for pair in PAIRS
    }


async def test_a_correction_is_in_the_next_round_and_outlasts_jobs(
    client: httpx.AsyncClient, trainer: LocalTrainer
) -> None:
    before = (await client.get("/pairs", params={"order": "oldest", "limit": 1})).json()["pairs"][0]
    marked = await client.patch(f"/pairs/{before['id']}", json={"checked": True})
    assert marked.json() == before | {"checked": True}
    corrected = (await client.patch(f"/pairs/{before['id']}", json={"score": 0.25})).json()
    facts = {"id": 32, "score": 0.25, "checked": True, "corrected": True, "collected": corrected["collected"]}
    assert corrected == before | facts
    again = await client.patch(f"/pairs/{before['id']}", json={"checked": True})
    assert again.status_code == 404
    assert "another id" in again.json()["detail"]
    assert (await client.get("/pairs/summary")).json() == {
        "total": 31, "new": 31, "checked": 1, "tasks": {"sts": 31}, "labels": {"1": 31},
        "jobs": [{"job": "job", "pairs": 31}],
    }  # fmt: skip
    # A teacher that writes it again with its own score is no news.
    await trainer.parts.writer.forget([PAIRS[0].content_hash])
    [answer] = await trainer.parts.writer.append([Offer(records([PAIRS[0]])[0], "another/0/0")])
    assert answer == Append.ACCEPTED
    await trainer.send([make_pairs(40)[-1]])
    await trainer.wait_for_pairs(32)
    [pair] = (await client.get("/pairs", params={"text": PAIRS[0].sentence2, "score": 0.25})).json()["pairs"]
    assert pair["id"] == 32


async def test_one_pair_is_deleted_once_and_may_come_again(client: httpx.AsyncClient, trainer: LocalTrainer) -> None:
    assert (await client.delete("/pairs/1")).json() == {"deleted": 1}
    assert (await client.delete("/pairs/1")).status_code == 404
    assert (await client.patch("/pairs/1", json={"score": 1})).status_code == 404
    assert await trainer.parts.dataset.run(Dataset.count) == 30
    [answer] = await trainer.parts.writer.append([Offer(records([PAIRS[0]])[0], "another/0/0")])
    assert answer == Append.ACCEPTED
    await trainer.wait_for_pairs(31)


async def test_pages_and_corrections_go_on_while_another_process_writes(
    client: httpx.AsyncClient, trainer: LocalTrainer
) -> None:
    answers = await asyncio.gather(
        *(client.patch(f"/pairs/{id_}", json={"score": 0.625}) for id_ in range(1, 31)),
        *(client.get("/pairs", params={"limit": 30}) for _ in range(30)),
        trainer.send(make_pairs(60)[31:]),
    )
    assert {answer.status_code for answer in answers if answer is not None} == {200}
    await trainer.wait_for_pairs(60)
    assert (await client.get("/pairs", params={"score": 0.625, "limit": 1000})).json()["next"] is None
    assert len((await client.get("/pairs", params={"score": 0.625, "limit": 1000})).json()["pairs"]) == 30


async def test_bad_questions_name_the_field(client: httpx.AsyncClient) -> None:
    for query, field in (
        ({"limit": "0"}, "limit"), ({"limit": "1001"}, "limit"), ({"order": "best"}, "order"),
        ({"cursor": "x"}, "cursor"), ({"cursor": "-5"}, "cursor"), ({"cursor": str(2**70)}, "cursor"),
        ({"score": "2"}, "score"), ({"min_score": "nan"}, "min_score"), ({"jobs": "a"}, "jobs"),
        ({"checked": "maybe"}, "checked"), ({"format": "csv"}, "format"),
    ):  # fmt: skip
        answer = await client.get("/pairs", params=query)
        assert (answer.status_code, field in answer.json()["detail"]) == (422, True), query
    for body in ({}, {"score": 1.5}, {"score": "one"}, {"label": "1"}, {"checked": None}):
        answer = await client.patch("/pairs/1", json=body)
        assert answer.status_code == 422, body
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.patch("/pairs/x", json={"score": 1})).status_code == 422
    assert (await client.patch(f"/pairs/{2**63}", json={"score": 1})).status_code == 422


async def test_the_routes_are_for_keys_and_for_the_trainer_that_works(trainer: LocalTrainer) -> None:
    api = DatasetApi("0.0.0.0", has_keys=True)
    async with served([browse_router(api)], ("secret",)) as client:
        assert (await client.get("/pairs")).status_code == 503
        with api.answered_by(trainer.parts):
            assert (await client.get("/pairs")).status_code == 200
            for method, path in (("GET", "/pairs"), ("GET", "/pairs/summary"), ("DELETE", "/pairs/1")):
                refused = await client.request(method, path, headers={"Authorization": "Bearer other"})
                assert refused.status_code == 401, path
    open_to_all = DatasetApi("0.0.0.0", has_keys=False)
    with open_to_all.answered_by(trainer.parts):
        async with served([browse_router(open_to_all)]) as client:
            assert (await client.get("/pairs")).status_code == 403


async def test_the_routes_are_described(client: httpx.AsyncClient) -> None:
    assert (await client.get("/docs")).status_code == 200
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"get", "delete"} <= paths["/pairs"].keys()
    described = {one["name"]: one.get("description", "") for one in paths["/pairs"]["get"]["parameters"]}
    assert "A to Z may be small or capital" in described["text"]
