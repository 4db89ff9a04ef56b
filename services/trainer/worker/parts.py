"""What a trainer works with."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from services.trainer.dataset.store import DatasetThread, open_dataset
from services.trainer.metrics import Metrics
from services.trainer.progress import Progress
from services.trainer.settings import TrainerSettings
from services.trainer.worker.child import RunRound, run_child
from services.trainer.worker.collector import Collector
from services.trainer.worker.round_requests import RoundRequests
from shared.errors import first_line
from shared.heartbeat import Heartbeats
from shared.lease import Lease
from shared.model_store import ModelStore
from shared.queue import open_queue
from shared.redis import command_client, reading_client
from shared.settings import Settings
from shared.stream import PairStream

log = logging.getLogger(__name__)

BLOCK_MS = 1000

OnProgress = Callable[[int, Progress], None]
"""Is called with a round's number and how far it is."""


@dataclass
class Parts:
    """Built once, when the dataset's lock is ours. `reading` and `reader` block and must not retry; the others may."""

    settings: Settings
    own: TrainerSettings
    metrics: Metrics
    on_progress: OnProgress
    run_round: RunRound
    dataset: DatasetThread
    lease: Lease
    reading: Redis
    commands: Redis

    def __post_init__(self) -> None:
        self.store, name = ModelStore(self.settings.models_dir), self.settings.dataset
        self.reader, self.writer = PairStream(self.reading, name), PairStream(self.commands, name)
        self.heartbeats, self.requests = Heartbeats(self.commands, name), RoundRequests(self.commands, name)

    def collector(self) -> Collector:
        """A new one for each lease: what the one before had read may be another's now."""
        self.reader.rewind()
        return Collector(self.reader, self.writer, self.dataset)

    async def take_lease(self, stopping: asyncio.Event) -> bool:
        """Wait for the lease, and shut older trainers out of the store; False if `stopping` came first."""
        if not await self.lease.take(self.store.epoch() + 1, stopping):
            return False
        try:
            self.store.fence(self.lease.epoch)
        except OSError as error:  # every round tries again
            log.warning("can't write to %s: %s", self.store.root, first_line(error))
        return True


@contextlib.asynccontextmanager
async def build(
    settings: Settings, own: TrainerSettings, metrics: Metrics, on_progress: OnProgress, run_round: RunRound = run_child
) -> AsyncIterator[Parts]:
    """Open the dataset and the queue, and build the parts around them. Raises `Fatal`."""
    with contextlib.ExitStack() as stack:
        dataset = stack.enter_context(open_dataset(settings.dataset_dir))
        url = stack.enter_context(open_queue(settings.redis_url, settings.queue_dir))
        thread = stack.enter_context(DatasetThread(dataset, settings.dataset_dir))  # ends before the dataset is closed
        reading, commands = reading_client(url, BLOCK_MS / 1000), command_client(url)
        lease = Lease(commands, settings.dataset, "trainer", dataset.id)
        yield Parts(settings, own, metrics, on_progress, run_round, thread, lease, reading, commands)
        await asyncio.gather(reading.aclose(), commands.aclose())
