"""Rounds and reports over HTTP: what runs, what became of it, and starting one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from services.trainer.progress import Progress
from services.trainer.worker.child import RunRound
from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.routes import routers
from shared.manifest import Card
from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from shared.settings import Settings
from tests.support.pairs import make_pairs
from tests.support.worker import LocalTrainer, Outcomes, local_trainer, publish_something, served

pytestmark = pytest.mark.anyio

REPORT = '<!doctype html><title>Report</title><script>alert("1")</script><img src="data:image/png;base64,AA==">'
GATE = {"reason": "it is estimated to be better than base: +1.00 points"}
ESTIMATE = {"candidate": {"similarity": {"value": 5.0, "low": 4.0, "high": 6.0}}}


def publish_reported(store: ModelStore, round_: int, epoch: int, rejection: str | None = None) -> str:
    """A version with a report, and with what the gate said."""
    card = Card.model_validate(
        {"base": "test", "round": round_, "pairs": 3, "dimensions": 1, "epoch": epoch, "gate": GATE}
        | {"estimates": ESTIMATE}
    )
    with store.staging() as staged:
        (staged / "modules.json").write_text(f"[{round_}]")
        (staged / "report").mkdir()
        (staged / "report" / "report.html").write_text(REPORT)
        probe = [[0.0]] * 4
        made = store.publish(staged, card, probe) if rejection is None else store.reject(staged, card, probe, rejection)
        return made.id


class HeldUp:
    """A `run_round` that reports two points and waits; then it goes on as it is told."""

    def __init__(self, store: ModelStore) -> None:
        self.store, self.reached, self.go_on = store, asyncio.Event(), asyncio.Event()

    async def __call__(self, id_: int, epoch: int, on_progress: Callable[[Progress], None]) -> Progress:
        on_progress(Progress(step=10, steps=30, loss=0.5, fresh=("loss",)))
        on_progress(Progress(step=12, steps=30, loss=0.5, seconds_left=9.5))
        on_progress(Progress(step=20, steps=30, loss=0.25, dev=70.5, fresh=("loss", "dev"), seconds_left=4.5))
        self.reached.set()
        await self.go_on.wait()
        return Progress(version=publish_reported(self.store, id_, epoch))


@pytest.fixture
def settings(tmp_path: Path, server: EmbeddedServer, dataset: str) -> Settings:
    return Settings(home=tmp_path, redis_url=server.url, student="static", dataset=dataset)


@asynccontextmanager
async def asked(settings: Settings, run_round: RunRound) -> AsyncIterator[tuple[httpx.AsyncClient, LocalTrainer]]:
    """A client of a trainer that starts a round only when it is asked."""
    api = DatasetApi("127.0.0.1", has_keys=False)
    async with local_trainer(settings, run_round, round_pairs=10_000, round_min_pairs=10_000) as trainer:
        with api.answered_by(trainer.parts):
            async with served(routers(api)) as client:
                yield client, trainer


async def test_a_round_is_started_followed_and_kept(settings: Settings) -> None:
    store = ModelStore(settings.models_dir)
    publish_something(store)
    runs = HeldUp(store)
    async with asked(settings, runs) as (client, trainer):
        assert (await client.get("/rounds")).json() == []
        await trainer.send(make_pairs(3))
        started = await client.post("/rounds")
        assert (started.status_code, started.json(), started.headers["location"]) == (202, {"round": 1}, "/rounds/1")
        await runs.reached.wait()
        assert (await client.post("/rounds")).json() == {"round": 1}, "the one that runs"
        running = (await client.get("/rounds/1")).json()
        assert (running["state"], running["version"], running["finished"], running["gate"]) == ("training", *[None] * 3)
        progress = {"state": "training", "step": 20, "steps": 30, "loss": 0.25, "dev": 70.5, "eta_s": 4.5}
        assert running["progress"] == progress
        curves = {"loss": [[10, 0.5], [20, 0.25]], "dev": [[20, 70.5]]}
        assert running["curves"] == curves
        # The dataset is read, searched and corrected meanwhile.
        assert (await client.patch("/pairs/1", json={"score": 0.5})).json()["id"] == 4
        assert (await client.get("/pairs/summary")).json()["new"] == 1
        runs.go_on.set()
        await trainer.wait_for_states("published")
        done = (await client.get("/rounds/1")).json()
        facts = {
            "id": 1,
            "state": "published",
            "pairs": 3,
            "version": store.current(),
            "reason": None,
            "progress": None,
        }
        assert facts.items() <= done.items()
        assert (done["curves"], done["gate"], done["estimates"]) == (curves, GATE["reason"], ESTIMATE)
        assert done["started"] < done["finished"]
        assert (await client.get("/rounds")).json() == [
            {name: done[name] for name in (await client.get("/rounds")).json()[0]}
        ]


async def test_rounds_that_failed_or_wait_for_a_person_say_why(settings: Settings) -> None:
    store = ModelStore(settings.models_dir)
    publish_something(store)
    rejected = publish_reported(store, 1, 0, "points worse")
    held = publish_reported(store, 2, 0, "there is no evidence")
    outcomes = [
        Progress(version=rejected, rejection="points worse"),
        Progress(version=held, rejection="there is no evidence", held=True),
        *[Progress(error="no memory")] * 4,
    ]
    api = DatasetApi("127.0.0.1", has_keys=False)
    async with local_trainer(settings, Outcomes(store, outcomes), round_pairs=10, retry_seconds=0.01) as trainer:
        with api.answered_by(trainer.parts):
            async with served(routers(api)) as client:
                states = list[str]()
                for number, state in enumerate(("rejected", "rejected", "failed")):
                    await trainer.send(make_pairs(10 * number + 10)[10 * number :])
                    await trainer.wait_for_states(*[*states, state])
                    states.append(state)
                listed = (await client.get("/rounds", params={"limit": 2})).json()
                assert [(one["id"], one["state"], one["reason"]) for one in listed] == [
                    (3, "failed", "no memory"), (2, "held", "there is no evidence"),
                ]  # fmt: skip
                details = (await client.get("/rounds/1")).json()
                assert (details["state"], details["gate"], details["estimates"]) == (
                    "rejected",
                    GATE["reason"],
                    ESTIMATE,
                )
                assert (await client.get("/rounds/3")).json()["gate"] is None
                assert (await client.get(f"/versions/{held}/report")).text == REPORT


async def test_what_cannot_be_started_or_found_says_what_to_do(settings: Settings) -> None:
    store = ModelStore(settings.models_dir)
    publish_something(store)
    async with asked(settings, Outcomes(store)) as (client, _):
        empty = await client.post("/rounds")
        assert (empty.status_code, empty.headers["content-type"]) == (409, "application/problem+json")
        assert "no pairs and no passages" in empty.json()["detail"]
        page = await client.post("/rounds", headers={"Origin": "https://evil.example"})
        assert (page.status_code, "PAIRWRIGHT_API_KEYS" in page.text) == (403, True)
        for path, status in (("/rounds/9", 404), ("/rounds/-1", 422), ("/rounds/x", 422), ("/rounds?limit=0", 422)):
            assert (await client.get(path)).status_code == status, path


async def test_without_redis_no_round_starts_and_the_answer_says_so(tmp_path: Path, own_server: EmbeddedServer) -> None:
    settings = Settings(home=tmp_path, redis_url=own_server.url, student="static")
    store = ModelStore(settings.models_dir)
    publish_something(store)
    async with asked(settings, Outcomes(store)) as (client, _):
        own_server.stop()
        away = await client.post("/rounds")
        assert (away.status_code, "Redis" in away.json()["detail"]) == (503, True)
        assert (await client.get("/pairs")).status_code == 200, "reading needs no Redis"


async def test_a_report_is_shown_and_runs_nothing(settings: Settings) -> None:
    store = ModelStore(settings.models_dir)
    bare, reported = publish_something(store), publish_reported(store, 1, 0)
    async with asked(settings, Outcomes(store)) as (client, _):
        for name in ("current", reported):
            shown = await client.get(f"/versions/{name}/report")
            assert (shown.status_code, shown.text) == (200, REPORT)
            policy = shown.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src" not in policy
            assert policy.endswith("sandbox")
            assert shown.headers["content-type"] == "text/html; charset=utf-8"
        for name in ("r000009-00000000", "..", "%2e%2e%2f%2e%2e", "nonsense"):
            assert (await client.get(f"/versions/{name}/report")).status_code == 404, name
        without = await client.get(f"/versions/{bare}/report")
        assert (without.status_code, "no report" in without.json()["detail"]) == (404, True)
