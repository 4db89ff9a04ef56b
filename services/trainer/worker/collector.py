"""From the stream into the dataset: commit, then acknowledge, so that a death in between repeats and loses nothing.

An entry that can't be kept goes to the dead letters with the reason, so that the others flow: at once when it can't
even be read, which never mends; after five deliveries when the dataset refuses it or the trainer died of it each time.
"""

import contextlib
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from redis.exceptions import RedisError

from services.trainer.dataset.store import DatasetThread
from shared import tracing
from shared.errors import first_line
from shared.stream import Delivery, PairStream

log = logging.getLogger(__name__)

CONSUMER = "trainer-0"
"""One name for ever: what a dead trainer left unacknowledged comes to the next one at once."""
DELIVERIES = 5
REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, ValueError, OverflowError)
"""What may be due to an entry itself. A full disk, a locked or damaged file and a Redis that is away never are."""


class Collector:
    """Moves pairs and documents. `reader` blocks and must not retry; `writer` may."""

    def __init__(self, reader: PairStream, writer: PairStream, dataset: DatasetThread) -> None:
        self._reader, self._writer, self._dataset = reader, writer, dataset
        self._last_new = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last new pair came, or since the start."""
        return time.monotonic() - self._last_new

    async def collect(self, block_ms: int) -> int:
        """Move a batch, waiting up to `block_ms`; how many entries. Raises RedisError, OSError or sqlite3.Error."""
        deliveries = await self._reader.read(CONSUMER, block_ms=block_ms)
        try:
            await self._keep(deliveries)
        except BaseException:
            self._reader.rewind()  # the entries come again, or they would wait for the next restart
            raise
        return len(deliveries)

    async def drain(self) -> None:
        """Move what waits now. Ends even while more keeps coming."""
        for _ in range(await self._writer.backlog()):
            if not await self.collect(block_ms=1):
                return

    async def _keep(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.error is not None:
                await self._dead_letter(delivery)
        readable = [delivery for delivery in deliveries if delivery.error is None]
        if others := [delivery for delivery in readable if delivery.deliveries <= DELIVERIES]:
            await self._keep_together(others)
        for delivery in readable:
            if delivery.deliveries > DELIVERIES:  # one of these may be what the trainer dies of
                await self._keep_suspect(delivery)

    async def _keep_together(self, deliveries: Sequence[Delivery]) -> None:
        try:
            await self._add(deliveries)
        except REFUSALS as error:
            if len(deliveries) == 1:
                await self._refuse(deliveries[0], error)
                return
            for delivery in deliveries:  # whichever it is, the others are kept
                await self._keep_together([delivery])
        else:
            await self._writer.acknowledge(deliveries)

    async def _keep_suspect(self, delivery: Delivery) -> None:
        tries = await self._writer.count_try(delivery)
        if tries > DELIVERIES:
            await self._dead_letter(replace(delivery, error=f"the trainer died of it {tries - 1} times"))
            return
        try:
            await self._keep_together([delivery])
        finally:
            await self._writer.forget_try(delivery)

    async def _refuse(self, delivery: Delivery, error: Exception) -> None:
        if delivery.deliveries >= DELIVERIES:
            await self._dead_letter(replace(delivery, error=f"the dataset refuses it: {first_line(error)}"))
        else:
            log.warning("entry %s is refused, and tried again: %s", delivery.id, first_line(error))
            self._reader.rewind()

    async def _dead_letter(self, delivery: Delivery) -> None:
        log.warning("entry %s goes to the dead letters: %s", delivery.id, delivery.error)
        await self._writer.dead_letter(delivery)

    async def _add(self, deliveries: Sequence[Delivery]) -> None:
        records = [delivery.record for delivery in deliveries if delivery.record is not None]
        sources = Counter(delivery.traceparent for delivery in deliveries if delivery.traceparent)
        traceparents = []
        with contextlib.ExitStack() as spans:
            for source, pairs in sources.items():  # one span in each trace that pairs come from
                spans.enter_context(tracing.span("collect", parent=source, pairs=pairs))
                traceparents.append(tracing.traceparent())
            times = [delivery.came for delivery in deliveries if delivery.record is not None]
            known = filter(None, traceparents)
            added = await self._dataset.run(lambda dataset: dataset.add(records, known, times))
            documents = [delivery for delivery in deliveries if delivery.document is not None]
            if await self._add_documents(documents) or added.changed:
                self._last_new = time.monotonic()

    async def _add_documents(self, deliveries: Sequence[Delivery]) -> int:
        """Keep documents; how many are new or have changed."""
        if not deliveries:
            return 0
        documents = [delivery.document for delivery in deliveries if delivery.document is not None]
        times = [delivery.came for delivery in deliveries]
        added = await self._dataset.run(lambda dataset: dataset.add_documents(documents, times))
        if added.replaced:
            log.info("%d documents have changed; %d pairs went with their passages", added.replaced, len(added.pairs))
        await forget(self._writer, added.pairs)
        return added.changed


async def forget(stream: PairStream, hashes: Sequence[str]) -> None:
    """Let deleted pairs come again. Redis may be away: that is no reason to keep them."""
    try:
        await stream.forget(hashes)
    except (RedisError, OSError) as error:
        log.warning("for seven days, jobs can't send %d deleted pairs again: %s", len(hashes), first_line(error))
