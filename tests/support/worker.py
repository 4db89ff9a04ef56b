"""The trainer's worker in the test's own process: a real queue, dataset and store; the test says what a round does."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from services.trainer.__main__ import work_with
from services.trainer.dataset.store import Dataset, Round
from services.trainer.metrics import Metrics
from services.trainer.progress import Progress
from services.trainer.settings import TrainerSettings
from services.trainer.worker.child import RunRound
from services.trainer.worker.health_server import health_server
from services.trainer.worker.parts import Parts, build
from shared.manifest import Card
from shared.model_store import ModelStore
from shared.pairs import Pair
from shared.settings import Settings
from shared.stream import Offer
from tests.support.pairs import records
from tests.support.ports import free_port

PATIENCE_S = 60


def publish_something(store: ModelStore, round_: int = 0, epoch: int = 0) -> str:
    """A version to serve, so that no base needs publishing; its id."""
    with store.staging() as staged:
        (staged / "modules.json").write_text(f"[{round_}]")
        card = Card(base="test", round=round_, pairs=0, dimensions=1, epoch=epoch)
        return store.publish(staged, card, [[0.0]] * 4).id


@dataclass
class Outcomes:
    """A `run_round` that ends at once: with these outcomes first, then by publishing a version."""

    store: ModelStore
    first: list[Progress] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    """The rounds that were run, each try."""

    async def __call__(self, id_: int, epoch: int, on_progress: Callable[[Progress], None]) -> Progress:
        self.rounds.append(id_)
        on_progress(Progress(step=1, steps=1, loss=0.5))
        if self.first:
            return self.first.pop(0)
        return Progress(version=publish_something(self.store, id_, epoch))


class LocalTrainer:
    """A worker that runs."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._stopping = asyncio.Event()
        self._working = asyncio.create_task(work_with(parts, self._stopping))

    async def stop(self) -> None:
        """As SIGTERM does. Raises what ended it before."""
        self._stopping.set()
        await self._working

    async def eventually(self, check: Callable[[], Awaitable[object]], what: str) -> None:
        """Wait until `check` gives something true."""
        deadline = time.monotonic() + PATIENCE_S
        while not await check():
            if self._working.done():
                self._working.result()
            assert time.monotonic() < deadline, f"never came: {what}; {await self.status()}"
            await asyncio.sleep(0.02)

    async def send(self, pairs: list[Pair]) -> None:
        """Offer pairs."""
        await self.parts.writer.append([Offer(record, "job") for record in records(pairs)])

    async def status(self) -> dict[str, Any]:
        """The last heartbeat."""
        return await self.parts.heartbeats.read("trainer")

    async def rounds(self) -> list[Round]:
        """All rounds."""
        return await self.parts.dataset.run(Dataset.rounds)

    async def wait_for_states(self, *states: str) -> None:
        """Wait until the rounds have just these states."""

        async def _same() -> bool:
            return [round_.state for round_ in await self.rounds()] == list(states)

        await self.eventually(_same, f"rounds {states}")

    async def wait_for_pairs(self, count: int) -> None:
        """Wait until so many are in the dataset."""

        async def _same() -> bool:
            return await self.parts.dataset.run(Dataset.count) == count

        await self.eventually(_same, f"{count} pairs")

    async def wait_for_status(self, **values: object) -> None:
        """Wait for a heartbeat with these values."""

        async def _same() -> bool:
            return values.items() <= (await self.status()).items()

        await self.eventually(_same, str(values))


@contextlib.asynccontextmanager
async def local_trainer(settings: Settings, run_round: RunRound, **own: Any) -> AsyncIterator[LocalTrainer]:
    """Run a worker until the block ends."""
    metrics = Metrics(CollectorRegistry())
    async with build(settings, TrainerSettings(**own), metrics, lambda *_: None, run_round) as parts:
        trainer = LocalTrainer(parts)
        try:
            yield trainer
        finally:
            await trainer.stop()


@contextlib.asynccontextmanager
async def served(routers: Sequence[APIRouter], keys: tuple[str, ...] = ()) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the trainer's routes, with the first key."""
    port, metrics = free_port(), Metrics(CollectorRegistry())
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    url = f"http://127.0.0.1:{port}"
    async with (
        health_server("127.0.0.1", port, metrics, keys, routers),
        httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) as client,
    ):
        yield client
