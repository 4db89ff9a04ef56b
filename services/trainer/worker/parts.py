"""What a trainer works with."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from services.trainer.dataset.store import DatasetThread
from services.trainer.metrics import Metrics
from services.trainer.progress import Progress
from services.trainer.settings import TrainerSettings
from services.trainer.worker.child import RunRound
from services.trainer.worker.collector import Collector
from services.trainer.worker.round_requests import RoundRequests
from shared.errors import first_line
from shared.heartbeat import Heartbeats
from shared.lease import Lease
from shared.model_store import ModelStore
from shared.settings import Settings
from shared.stream import PairStream

log = logging.getLogger(__name__)

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
        """Wait for the lease, and shut older trainers out of the store; False if `stopping` came first.

        A disk that refuses is a warning now, and every round tries again.
        """
        if not await self.lease.take(self.store.epoch() + 1, stopping):
            return False
        try:
            self.store.fence(self.lease.epoch)
        except OSError as error:
            log.warning("can't write to %s: %s", self.store.root, first_line(error))
        return True
