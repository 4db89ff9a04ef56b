"""`DELETE /pairs` over HTTP, from a trainer that works, and `dataset delete` beside it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from services.trainer.dataset.store import Dataset
from services.trainer.metrics import Metrics
from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.health_server import health_server
from services.trainer.worker.pairs_api import pairs_router
from shared.model_store import ModelStore
from shared.pairs import Pair
from shared.queue import EmbeddedServer
from shared.settings import Settings
from shared.stream import Append, Offer
from tests.support.pairs import make_pairs, records
from tests.support.ports import free_port
from tests.support.worker import LocalTrainer, Outcomes, local_trainer, publish_something

pytestmark = pytest.mark.anyio

KEY = "secret"


@pytest.fixture
def settings(tmp_path: Path, own_server: EmbeddedServer) -> Settings:
    return Settings(home=tmp_path, redis_url=own_server.url, student="static")


@asynccontextmanager
async def served(api: DatasetApi, keys: tuple[str, ...] = ()) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the route, with the key."""
    port, metrics = free_port(), Metrics(CollectorRegistry())
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"http://127.0.0.1:{port}"
    async with (
        health_server("127.0.0.1", port, metrics, keys, [pairs_router(api)]),
        httpx.AsyncClient(base_url=url, headers=headers) as client,
    ):
        yield client


@asynccontextmanager
async def working(settings: Settings, pairs: list[Pair]) -> AsyncIterator[LocalTrainer]:
    """A trainer that has collected these pairs and starts no round by itself."""
    store = ModelStore(settings.models_dir)
    publish_something(store)
    async with local_trainer(settings, Outcomes(store), round_pairs=10_000, round_min_pairs=10_000) as trainer:
        await trainer.send(pairs)
        await trainer.wait_for_pairs(len(pairs))
        yield trainer


async def test_deleted_pairs_leave_the_dataset_and_may_come_again(settings: Settings) -> None:
    pairs = make_pairs(30)
    async with working(settings, pairs) as trainer:
        api = DatasetApi("127.0.0.1", has_keys=False)
        with api.answered_by(trainer.parts):
            async with served(api) as client:
                query: dict[str, str | float] = {"job": "job", "score": 0.5}
                assert (await client.delete("/pairs", params=query | {"dry_run": "true"})).json() == {"selected": 10}
                assert await trainer.parts.dataset.run(Dataset.count) == 30
                assert (await client.delete("/pairs", params=query)).json() == {"deleted": 10}
                assert (await client.delete("/pairs", params=query)).json() == {"deleted": 0}
                by_text = await client.delete("/pairs", params={"text": pairs[0].sentence2})
                assert by_text.json()["deleted"] >= 1
        left = 30 - 10 - by_text.json()["deleted"]
        assert await trainer.parts.dataset.run(Dataset.count) == left
        [deleted, kept] = records([next(pair for pair in pairs if pair.score == 0.5), pairs[-1]])
        answers = await trainer.parts.writer.append([Offer(deleted, "another/0/0"), Offer(kept, "another/0/1")])
        assert answers == [Append.ACCEPTED, Append.DUPLICATE]
        await trainer.wait_for_pairs(left + 1)


async def test_what_would_delete_too_much_or_cannot_be_answered_is_a_problem(settings: Settings) -> None:
    async with working(settings, make_pairs(3)) as trainer:
        api = DatasetApi("0.0.0.0", has_keys=True)
        async with served(api, (KEY,)) as client:
            assert (await client.delete("/pairs", params={"job": "job"})).status_code == 503
            with api.answered_by(trainer.parts):
                for query in ({}, {"dry_run": "true"}, {"jobs": "job", "task": "sts"}, {"text": ""}, {"score": "7"}):
                    answer = await client.delete("/pairs", params=query)
                    assert answer.status_code == 422, query
                    assert answer.headers["content-type"] == "application/problem+json"
                without_key = await client.delete("/pairs", params={"job": "job"}, headers={"Authorization": ""})
                assert without_key.status_code == 401
                assert await trainer.parts.dataset.run(Dataset.count) == 3
                assert (await client.delete("/pairs", params={"job": "job"})).json() == {"deleted": 3}
        open_to_all = DatasetApi("0.0.0.0", has_keys=False)
        with open_to_all.answered_by(trainer.parts):
            async with served(open_to_all) as client:
                refused = await client.delete("/pairs", params={"job": "job"})
                assert (refused.status_code, "PAIRWRIGHT_API_KEYS" in refused.text) == (403, True)
