"""What a trainer works with."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from services.trainer.dataset.store import DatasetThread, open_dataset
from services.trainer.metrics import Metrics
from services.trainer.progress import Progress
from services.trainer.settings import TrainerSettings
from services.trainer.worker.child import RunRound, run_child
from services.trainer.worker.collector import Collector
from services.trainer.worker.live_round import LiveRound
from services.trainer.worker.map_maker import MapMaker
from shared.backoff import pause
from shared.errors import first_line
from shared.heartbeat import Heartbeats
from shared.lease import Lease
from shared.model_store import ModelStore
from shared.queue import open_queue
from shared.redis import command_client, key, reading_client
from shared.settings import Settings
from shared.stream import PairStream

log = logging.getLogger(__name__)

BLOCK_MS = 1000
EXPIRES_AFTER_S, ANSWER_WITHIN_S, LOOK_S = 600, 60.0, 0.5

OnProgress = Callable[[int, Progress], None]  # is called with a round's number and how far it is


class RoundRequests:
    """Asking for a round now, through Redis: `train --once` asks, the trainer that runs answers with its number."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self._redis = redis
        self._requested, self._answers = key(dataset, "trainer", "wanted"), key(dataset, "trainer", "answer")

    async def ask(self, stopping: asyncio.Event, within_s: float = ANSWER_WITHIN_S) -> str | None:
        """Ask, and wait for the answer; None when there is none in time, or `stopping` is set before."""
        token = secrets.token_hex(8)
        await self._redis.lpush(self._requested, token)
        await self._redis.expire(self._requested, EXPIRES_AFTER_S)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and not stopping.is_set():
            if (text := await self._redis.get(f"{self._answers}:{token}")) is not None:
                return str(text)
            await pause(stopping, LOOK_S)
        return None

    async def take(self) -> list[str]:
        """The tokens of all open requests; they are the caller's to answer now."""
        return [str(token) for token in await self._redis.rpop(self._requested, EXPIRES_AFTER_S) or []]

    async def answer(self, token: str, text: str) -> None:
        """A round's number, or why there is none."""
        await self._redis.set(f"{self._answers}:{token}", text, ex=EXPIRES_AFTER_S)


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
        self.live = LiveRound()
        self.maps = MapMaker(self.dataset, self.settings.dataset_dir / "maps", self.live)

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
        parts = Parts(settings, own, metrics, on_progress, run_round, thread, lease, reading, commands)
        yield parts
        await parts.maps.stop()
        await asyncio.gather(reading.aclose(), commands.aclose())
