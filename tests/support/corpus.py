"""A trainer that reads its documents out over HTTP, in a thread of the test's process."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from services.trainer.metrics import Metrics
from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.documents_api import documents_router
from services.trainer.worker.health_server import health_server
from shared.documents import Document
from shared.model_store import ModelStore
from shared.settings import Settings
from tests.support.ports import free_port
from tests.support.worker import LocalTrainer, Outcomes, local_trainer, publish_something


class LiveCorpus:
    """The trainer at `url`. It may be stopped, and started again on the same home and port."""

    def __init__(self, home: Path, redis_url: str, dataset: str) -> None:
        self._settings = Settings(home=home, redis_url=redis_url, dataset=dataset, student="static")
        publish_something(ModelStore(self._settings.models_dir))
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.settings = Settings(trainer_url=self.url)
        """Of whoever asks it."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Answer until the block ends."""
        self._started, self._loop = threading.Event(), asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        thread.start()
        assert self._started.wait(60)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join(timeout=60)
        assert not thread.is_alive()

    def add(self, documents: Sequence[Document]) -> None:
        """Offer documents, and wait until the trainer has them."""
        asyncio.run_coroutine_threadsafe(self._add(documents), self._loop).result(60)

    async def _add(self, documents: Sequence[Document]) -> None:
        await self._trainer.parts.writer.append_documents(documents)

        async def all_there() -> bool:
            size = await self._trainer.parts.dataset.run(lambda dataset: dataset.corpus_size())
            return size.documents >= len(documents)

        await self._trainer.eventually(all_there, "documents")

    async def _serve(self) -> None:
        api, metrics = DatasetApi("127.0.0.1", has_keys=False), Metrics(CollectorRegistry())
        outcomes = Outcomes(ModelStore(self._settings.models_dir))
        async with (
            local_trainer(self._settings, outcomes, round_pairs=10_000, round_min_pairs=10_000) as self._trainer,
            health_server("127.0.0.1", self._port, metrics, (), [documents_router(api)]),
        ):
            with api.answered_by(self._trainer.parts):
                self._started.set()
                await self._stopping.wait()

    _trainer: LocalTrainer
