"""`/documents` and `/passages` of a trainer that works."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from services.trainer.dataset.store import Dataset
from services.trainer.metrics import Metrics
from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.documents_api import documents_router
from services.trainer.worker.health_server import health_server
from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from shared.settings import Settings
from shared.stream import Append, Offer
from tests.support.documents import make_document, retrieval
from tests.support.ports import free_port
from tests.support.worker import LocalTrainer, Outcomes, local_trainer, publish_something

pytestmark = pytest.mark.anyio

DOCUMENTS = [make_document(str(number), f"Room {number}.", "Towels are free.") for number in range(30)]


@pytest.fixture
async def trainer(tmp_path: Path, own_server: EmbeddedServer) -> AsyncIterator[LocalTrainer]:
    settings = Settings(home=tmp_path, redis_url=own_server.url, student="static")
    store = ModelStore(settings.models_dir)
    publish_something(store)
    async with local_trainer(settings, Outcomes(store), round_pairs=10_000, round_min_pairs=10_000) as trainer:
        await trainer.parts.writer.append_documents(DOCUMENTS)
        await trainer.parts.writer.append([Offer(retrieval("which room", "Room 7."), "job/0/0")])
        await trainer.wait_for_pairs(1)
        yield trainer


@asynccontextmanager
async def served(api: DatasetApi) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    async with (
        health_server("127.0.0.1", port, Metrics(CollectorRegistry()), (), [documents_router(api)]),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client


async def test_the_corpus_is_counted_and_read_a_page_at_a_time(trainer: LocalTrainer) -> None:
    api = DatasetApi("127.0.0.1", has_keys=False)
    with api.answered_by(trainer.parts):
        async with served(api) as client:
            counts = (await client.get("/documents")).json()
            first = counts.pop("first")
            size = {"documents": 30, "passages": 31, "duplicates": 29}
            assert counts == size | {"last_passage": 31, "short_texts": True}
            assert first[0] == {"id": 1, "document": "0", "title": "", "text": "Room 0."}
            assert len(first) == 5
            read: list[dict[str, object]] = []
            while page := (await client.get(f"/passages?limit=10&after={read[-1]['id'] if read else 0}")).text:
                read += map(json.loads, page.splitlines())
    expected = [one._asdict() for one in await trainer.parts.dataset.run(lambda dataset: list(dataset.passages()))]
    assert read == expected


async def test_deleted_documents_go_with_their_queries_and_may_come_again(trainer: LocalTrainer) -> None:
    api = DatasetApi("127.0.0.1", has_keys=False)
    with api.answered_by(trainer.parts):
        async with served(api) as client:
            query = {"text": "Room 7"}
            assert (await client.delete("/documents", params=query | {"dry_run": "true"})).json() == {"selected": 1}
            assert await trainer.parts.dataset.run(Dataset.count_passages) == 31
            assert (await client.delete("/documents", params=query)).json() == {"deleted": 1, "pairs": 1}
            assert (await client.delete("/documents", params=query)).json() == {"deleted": 0, "pairs": 0}
            assert (await client.delete("/documents", params={"source": "notes.md"})).json() == {
                "deleted": 29,
                "pairs": 0,
            }
    assert await trainer.parts.dataset.run(Dataset.corpus_size) == (0, 0, 0)
    assert await trainer.parts.dataset.run(Dataset.count) == 0
    writer = trainer.parts.writer
    assert await writer.append_documents(DOCUMENTS) == [Append.ACCEPTED] * 30
    assert await writer.append([Offer(retrieval("which room", "Room 7."), "job/0/0")]) == [Append.ACCEPTED]


async def test_what_would_delete_too_much_or_cannot_be_answered_is_a_problem(trainer: LocalTrainer) -> None:
    api = DatasetApi("127.0.0.1", has_keys=False)
    async with served(api) as client:
        for path in ("/documents", "/passages"):
            assert (await client.get(path)).status_code == 503
        with api.answered_by(trainer.parts):
            for query in ({}, {"dry_run": "true"}, {"ids": "0", "source": "notes.md"}, {"text": ""}):
                assert (await client.delete("/documents", params=query)).status_code == 422, query
            for page in ("limit=0", "limit=10001", "after=-1", "before=3"):
                assert (await client.get(f"/passages?{page}")).status_code == 422, page
    open_to_all = DatasetApi("0.0.0.0", has_keys=False)
    with open_to_all.answered_by(trainer.parts):
        async with served(open_to_all) as client:
            for refused in (
                await client.get("/passages"),
                await client.get("/documents"),
                await client.delete("/documents", params={"id": "1"}),
            ):
                assert (refused.status_code, "PAIRWRIGHT_API_KEYS" in refused.text) == (403, True)
    assert await trainer.parts.dataset.run(Dataset.count_passages) == 31
