"""The dispatcher: requests in, batches through the encoder, requests answered.

No waiting window: a batch is cut when a thread is free, so a lone request waits for nobody and a crowd shares batches.
Two threads tokenise, one of them long texts; the others compute, a batch each.
All bookkeeping stays on the event loop, so it needs no locks.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.embedding.metrics import Metrics
from services.embedding.models.base import EncodeOptions, Encoder, Tokens, Vectors
from services.embedding.resources import cores
from services.embedding.serving.admission import Admission, estimate_tokens
from services.embedding.serving.cache import Cache
from services.embedding.serving.errors import EncodingFailed
from services.embedding.serving.queue import BatchQueue, QueuedInput, QueuedRequest, cost
from services.embedding.settings import EmbeddingSettings

log = logging.getLogger(__name__)
Result = TypeVar("Result")

LEAST_SHARE = 128
"""Tokens that are worth a batch of their own: less isn't split over idle threads."""
MOST_WORKERS = 4


def workers(settings: EmbeddingSettings) -> int:
    """Batches computed at one time. Several with few threads each beat one with many: no thread waits for another."""
    return settings.workers or min(cores(), MOST_WORKERS)


class Batcher:
    """Computes what it is asked for, in batches. All methods belong to the event loop."""

    def __init__(self, settings: EmbeddingSettings, metrics: Metrics) -> None:
        self._settings, self._metrics, self._workers = settings, metrics, workers(settings)
        self._cache = Cache(settings.cache_mib * 1024 * 1024)
        self._admission = Admission(settings, metrics)
        self._idle = 0
        self._queues: dict[tuple[Encoder, EncodeOptions], BatchQueue] = {}
        self._arrivals, self._ready = (asyncio.Event(), asyncio.Event()), asyncio.Event()
        names = ("tokeniser", "long-tokeniser")
        metrics.tei.queue_size.set_function(lambda: sum(queue.ready_inputs for queue in self._queues.values()))
        self._tokenisers = [ThreadPoolExecutor(1, thread_name_prefix=name) for name in names]

    def submit(self, encoder: Encoder, texts: Sequence[str], options: EncodeOptions) -> QueuedRequest:
        """Queue the texts that neither wait already nor are in the cache. Raises `Overloaded`.

        The caller must `release` the request, answered or not.
        """
        chars = sum(map(len, texts))
        self._admission.admit(len(texts), chars, encoder)
        now = time.monotonic()
        request = QueuedRequest(chars, asyncio.get_running_loop().create_future(), now)
        queue = self._queues.get((encoder, options))
        if queue is None:
            queue = self._queues[encoder, options] = BatchQueue(encoder, options)
        hits = misses = 0
        for text in texts:
            entry = queue.pending.get(text)
            if entry is None and (cached := self._cache.get(encoder.version, options, text)) is not None:
                hits += 1
                tokens = cached.tokens
                entry = QueuedInput(text, 0.0, tokens, tokens.count, dequeued=True, vector=cached.vector)
            if entry is None:
                misses += 1
                entry = QueuedInput(text, now, count=estimate_tokens(text, encoder))
                queue.arrive(entry)
                self._admission.tokens += entry.count
            entry.references += 1
            if entry.vector is None:
                entry.requests.append(request)
                request.pending += 1
            request.inputs.append(entry)
        self._metrics.cache_hits.inc(hits)
        self._metrics.cache_misses.inc(misses)
        if not request.pending:
            request.done.set_result(None)
        for arrivals, event in zip(queue.arrivals, self._arrivals, strict=True):
            if arrivals:
                event.set()
        self._drop_if_empty(queue)
        return request

    def release(self, request: QueuedRequest) -> None:
        """The request is answered or given up: what no other request needs is dropped."""
        self._admission.release(len(request.inputs), request.chars)
        for entry in request.inputs:
            entry.references -= 1
        if not request.done.done():
            request.done.cancel()
            self._metrics.abandoned.inc()
        elif not request.done.cancelled():
            request.done.exception()  # asyncio complains of an error that nobody looked at

    async def wait_until_idle(self) -> None:
        """Return once no request is in flight."""
        await self._admission.idle.wait()

    def stats(self) -> dict[str, float]:
        """How much waits, by infinity's names."""
        waiting, most = self._admission.inputs, self._settings.max_queue_inputs
        pending = sum(len(queue.pending) for queue in self._queues.values())
        return {"queue_fraction": waiting / most, "queue_absolute": waiting, "results_pending": pending}

    async def run_apart(self, encoder: Encoder, inputs: int, chars: int, work: Callable[[], Result]) -> Result:
        """Other work on texts, one at a time and counted as what waits. Raises `Overloaded`, and what `work` raises."""
        self._admission.admit(inputs, chars, encoder)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._tokenisers[True], work)
        finally:
            self._admission.release(inputs, chars)

    async def run(self) -> None:
        """Work until cancelled."""
        inference = ThreadPoolExecutor(self._workers, thread_name_prefix="inference")
        try:
            async with asyncio.TaskGroup() as tasks:
                for is_long in (False, True):
                    tasks.create_task(self._tokenise_arrivals(is_long))
                for _ in range(self._workers):
                    tasks.create_task(self._compute_batches(inference))
        finally:
            for pool in (*self._tokenisers, inference):
                pool.shutdown(wait=False, cancel_futures=True)

    def _drop_if_empty(self, queue: BatchQueue) -> None:
        """A queue holds its encoder: no trace may stay of a version that is gone."""
        if not queue.pending:
            self._queues.pop((queue.encoder, queue.options), None)

    async def _tokenise_arrivals(self, is_long: bool) -> None:
        loop, arrival, pool = asyncio.get_running_loop(), self._arrivals[is_long], self._tokenisers[is_long]
        while True:
            queues = [queue for queue in self._queues.values() if queue.arrivals[is_long]]
            if not queues:
                arrival.clear()
                await arrival.wait()
                continue
            queue = min(queues, key=lambda queue: queue.arrivals[is_long][0].queued_at)
            if not (inputs := self._without_unreferenced(queue, queue.take_arrivals(is_long))):
                continue
            tokens, seconds = await loop.run_in_executor(pool, _attempt, _tokenise, queue, inputs)
            self._metrics.tokenise_seconds.observe(seconds)
            if tokens is None:
                self._settle(queue, inputs, None)
                continue
            for entry, own in zip(inputs, tokens, strict=True):
                self._admission.tokens += own.count - entry.count
                entry.tokens, entry.count = own, own.count
                for request in entry.requests:
                    request.tokenise_s = seconds
            queue.add(inputs)
            self._ready.set()

    def _without_unreferenced(self, queue: BatchQueue, inputs: list[QueuedInput]) -> list[QueuedInput]:
        """Forget the inputs whose callers all left."""
        for entry in inputs:
            if not entry.references:
                del queue.pending[entry.text]
                self._admission.tokens -= entry.count
        self._drop_if_empty(queue)
        return [entry for entry in inputs if entry.references]

    async def _compute_batches(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._next_batch()
            if batch is None:
                self._ready.clear()
                self._idle += 1
                await self._ready.wait()
                self._idle -= 1
                continue
            vectors, seconds = await loop.run_in_executor(pool, _attempt, _encode, *batch)
            self._settle(*batch, vectors)
            if vectors is not None:
                self._observe(*batch, seconds)

    def _next_batch(self) -> tuple[BatchQueue, list[QueuedInput]] | None:
        """Out of the queue whose input waits longest."""
        while True:
            oldest = [(entry.queued_at, queue) for queue in self._queues.values() if (entry := queue.oldest)]
            if not oldest:
                return None
            _, queue = min(oldest, key=lambda pair: pair[0])
            now = time.monotonic()
            inputs = queue.cut(self._budget(queue), now - self._settings.max_wait_seconds)
            if inputs := self._without_unreferenced(queue, inputs):
                for request in {request for entry in inputs for request in entry.requests}:
                    if request.started_at is None:
                        request.started_at = now
                        self._metrics.queue_seconds.observe(now - request.queued_at)
                return queue, inputs

    def _budget(self, queue: BatchQueue) -> int:
        """Tokens of the next batch: less than the most when other threads would have nothing to do."""
        budget = self._settings.max_batch_tokens or queue.encoder.batch_tokens
        if self._idle and queue.encoder.padded:
            budget = min(budget, max(LEAST_SHARE, math.ceil(queue.tokens / (self._idle + 1))))
        return budget

    def _settle(self, queue: BatchQueue, inputs: list[QueuedInput], vectors: Vectors | None) -> None:
        """Answer the requests whose last input this was; without vectors, with an error."""
        now = time.monotonic()
        for place, entry in enumerate(inputs):
            self._admission.tokens -= entry.count
            del queue.pending[entry.text]
            if vectors is not None and entry.tokens is not None:
                entry.vector = vectors[place]
                self._cache.put(queue.encoder.version, queue.options, entry.text, entry.tokens, entry.vector)
            for request in entry.requests:
                request.pending -= 1
                if request.done.done():
                    continue
                if vectors is None:
                    detail = "The model failed on these inputs; the log has the details."
                    request.done.set_exception(EncodingFailed(detail))
                elif not request.pending:
                    request.finished_at = now
                    request.done.set_result(None)
        self._drop_if_empty(queue)

    def _observe(self, queue: BatchQueue, inputs: list[QueuedInput], seconds: float) -> None:
        metrics, counts = self._metrics, [entry.count for entry in inputs]
        total = sum(counts)
        computed = cost(len(counts), max(counts), total, queue.encoder.padded)
        metrics.encode_seconds.observe(seconds)
        metrics.batch_inputs.observe(len(counts))
        metrics.batch_tokens.observe(computed)
        metrics.tei.batch_next_size.observe(len(counts))
        metrics.tei.batch_next_tokens.observe(computed)
        metrics.padding_tokens.inc(computed - total)
        metrics.tokens.inc(total)
        self._admission.observe_speed(total * self._workers / max(seconds, 1e-6))


def _tokenise(queue: BatchQueue, inputs: Sequence[QueuedInput]) -> list[Tokens]:
    return queue.encoder.tokenise([entry.text for entry in inputs], queue.options)


def _encode(queue: BatchQueue, inputs: Sequence[QueuedInput]) -> Vectors:
    return queue.encoder.encode([entry.tokens for entry in inputs if entry.tokens is not None], queue.options)


def _attempt(
    work: Callable[[BatchQueue, list[QueuedInput]], Result], queue: BatchQueue, inputs: list[QueuedInput]
) -> tuple[Result | None, float]:
    """In a thread: what `work` returns, None once its error is logged, and the seconds that it took."""
    started_at = time.perf_counter()
    try:
        return work(queue, inputs), time.perf_counter() - started_at
    except BaseException:  # a panic inside the tokenizers library is no Exception
        log.exception("%s: %s %d inputs failed", queue.encoder.version, work.__name__.strip("_"), len(inputs))
        return None, time.perf_counter() - started_at
