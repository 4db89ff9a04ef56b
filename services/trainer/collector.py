"""From the stream into the dataset: commit, then acknowledge, so that a death in between repeats and loses nothing."""

import logging
import time
from collections.abc import Sequence

from services.trainer.dataset import Dataset
from shared.stream import Delivery, PairStream

log = logging.getLogger(__name__)

CONSUMER = "trainer-0"
"""One name for ever: what a dead trainer left unacknowledged comes to the next one at once."""


class Collector:
    """Moves pairs. `reader` blocks and must not retry; `writer` may."""

    def __init__(self, reader: PairStream, writer: PairStream, dataset: Dataset) -> None:
        self._reader, self._writer, self._dataset = reader, writer, dataset
        self._last_new = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last new pair came, or since the start."""
        return time.monotonic() - self._last_new

    async def collect(self, block_ms: int) -> int:
        """Move one batch, waiting up to `block_ms` for it; how many entries came.

        Raises RedisError, OSError or sqlite3.Error; the entries come again then.
        """
        deliveries = await self._reader.read(CONSUMER, block_ms=block_ms)
        try:
            await self._keep(deliveries)
        except BaseException:
            self._reader.rewind()  # or they would wait for the next restart
            raise
        return len(deliveries)

    async def drain(self) -> None:
        """Move what waits now. Ends even while more keeps coming."""
        for _ in range(await self._writer.backlog()):
            if not await self.collect(block_ms=1):
                return

    async def _keep(self, deliveries: Sequence[Delivery]) -> None:
        readable = [delivery for delivery in deliveries if delivery.record is not None]
        if self._dataset.add([delivery.record for delivery in readable if delivery.record is not None]):
            self._last_new = time.monotonic()
        await self._writer.acknowledge(readable)
        for delivery in deliveries:
            if delivery.record is None:
                log.warning("entry %s is unreadable and goes to the dead letters: %s", delivery.id, delivery.fault)
                await self._writer.bury(delivery)
