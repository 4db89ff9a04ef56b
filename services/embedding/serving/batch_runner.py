"""Computes batches, one after the other, whenever no request waits: a portion is on disk before the next begins."""

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from services.embedding.metrics import Metrics
from services.embedding.models.base import EncodeOptions, Encoder, Vectors
from services.embedding.serving.batch_store import Batch, BatchStore, NoBatch, Records
from services.embedding.serving.batcher import Batcher
from services.embedding.serving.errors import EmbeddingError, EncodingFailed, InvalidInput
from services.embedding.serving.queue import cut_by_length
from services.embedding.serving.registry import VersionRegistry
from services.embedding.serving.service import options_of, shape
from shared.backoff import pause
from shared.errors import first_line
from shared.model_store import NoVersion

log = logging.getLogger(__name__)

READY_S = 0.5
POLL_S = 30.0
"""How often to look for batches of other processes, for what has grown old, and again for one that couldn't be done."""
TOKENISED_TEXTS, PORTION_TEXTS, PORTION_CHARS = 64, 1024, 1024 * 1024


class BatchRunner:
    """Has one thread of its own. `run` belongs to the event loop."""

    def __init__(self, store: BatchStore, versions: VersionRegistry, batcher: Batcher, metrics: Metrics) -> None:
        self._store, self._versions, self._batcher, self._metrics = store, versions, batcher, metrics
        self._wakeup = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def wake(self) -> None:
        """There is a new batch."""
        self._wakeup.set()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                self._wakeup.clear()
                is_ready = self._versions.serving is not None
                if is_ready:
                    await self._attempt_all()
                await pause(self._wakeup, POLL_S if is_ready else READY_S)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _attempt_all(self) -> None:
        try:
            await asyncio.to_thread(self._store.tidy)
            for batch in await asyncio.to_thread(self._store.all):
                if batch.state == "open":
                    await self._attempt(batch)
        except OSError as error:
            log.warning("batches can't go on, next try in %.0f s: %s", POLL_S, error)

    async def _attempt(self, batch: Batch) -> None:
        """Do what is left of a batch. One that can't be done now stays open. Raises OSError."""
        with self._store.claim(batch) as is_ours:
            if not is_ours:
                return
            try:
                if not self._versions.is_published(batch.version):
                    raise NoVersion(f"version {batch.version} is gone")
                await self._compute(batch, await self._versions.get(batch.version))
            except NoBatch:
                log.info("%s was deleted", batch.id)
            except (NoVersion, InvalidInput, EncodingFailed) as error:
                log.error("%s failed: %s", batch.id, error)
                await asyncio.to_thread(self._store.finish, batch, first_line(error))
            except EmbeddingError as error:  # no memory for its version just now, or it is quarantined
                log.warning("%s waits, next try in %.0f s: %s", batch.id, POLL_S, error)

    async def _compute(self, batch: Batch, encoder: Encoder) -> None:
        loop, options = asyncio.get_running_loop(), options_of(batch.request, encoder)
        done = self._store.resume(batch)
        texts = await loop.run_in_executor(self._pool, self._store.texts, batch, done)
        while True:
            portion = await loop.run_in_executor(self._pool, _take, texts)
            if not portion:
                break
            records = np.concatenate([
                await self._embed(batch, encoder, portion[start : start + TOKENISED_TEXTS], options)
                for start in range(0, len(portion), TOKENISED_TEXTS)
            ])  # fmt: skip
            await loop.run_in_executor(self._pool, self._store.append, batch, records)
            self._metrics.batch_texts.inc(len(portion))
        await asyncio.to_thread(self._store.finish, batch)
        log.info("%s is done: %d texts", batch.id, batch.texts)

    async def _embed(self, batch: Batch, encoder: Encoder, texts: list[str], options: EncodeOptions) -> Records:
        """Raises `EncodingFailed`."""
        loop = asyncio.get_running_loop()
        records = np.empty(len(texts), batch.record)
        try:
            await self._batcher.wait_until_idle()
            tokens = await loop.run_in_executor(self._pool, encoder.tokenise, texts, options)
            for places in cut_by_length(encoder, tokens):
                await self._batcher.wait_until_idle()
                inputs = [tokens[place] for place in places]
                vectors: Vectors = await loop.run_in_executor(self._pool, encoder.encode, inputs, options)
                records["vector"][places] = shape(vectors, batch.dimensions, normalize=True)
        except EmbeddingError:
            raise
        except Exception as error:
            log.exception("%s: %d texts failed", batch.id, len(texts))
            raise EncodingFailed(f"The model failed on a text: {first_line(error)}") from None
        records["tokens"] = [text.count if text.total <= text.count else -text.count for text in tokens]
        return records


def _take(texts: Iterator[str]) -> list[str]:
    portion, chars = list[str](), 0
    for text in islice(texts, PORTION_TEXTS):
        portion.append(text)
        chars += len(text)
        if chars >= PORTION_CHARS:
            break
    return portion
