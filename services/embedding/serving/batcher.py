"""The dispatcher: requests in, batches through the encoder, requests answered.

No waiting window: a batch is cut when a thread is free, so a lone request waits for nobody and a crowd shares batches.
One thread tokenises; the others compute, a batch each. All bookkeeping stays on the event loop, so it needs no locks.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from services.embedding.metrics import Metrics
from services.embedding.models.base import EncodeOptions, Encoder, Tokens, Vectors
from services.embedding.serving.cache import Cache
from services.embedding.serving.queue import BatchQueue, QueuedInput, cost

log = logging.getLogger(__name__)

TOKENISE_AT_ONCE = 512
"""Inputs tokenised before batches are cut again: a long backlog must not hold up the batch that could run now."""
LEAST_SHARE = 128
"""Tokens that are worth a batch of their own: less isn't split over idle threads."""
CHARS_PER_TOKEN = 3
"""To estimate what a text will cost before it is tokenised."""
LONGEST_RETRY_S = 30


class Overloaded(Exception):
    """Too much is waiting already; try again in `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


class EncodingFailed(Exception):
    """The encoder failed on a batch; the log has the reason."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be waiting at one time."""

    inputs: int
    chars: int
    tokens: int
    seconds: float
    """No request is taken that would wait longer, as far as the last batches tell."""


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request's inputs, all of one version, and the future that is set when the last of them has its vector."""

    inputs: list[QueuedInput]
    chars: int
    done: asyncio.Future[None]
    since: float
    missing: int = 0
    tokenise_s: float = 0.0
    """Time in the tokeniser, with what was tokenised at the same time."""
    began: float | None = None
    """When its first batch was begun."""
    ended: float | None = None

    @property
    def vectors(self) -> Vectors:
        """float32 [len(inputs), dimensions], in the order asked for. Only once `done`."""
        return np.stack([one.vector for one in self.inputs if one.vector is not None])

    @property
    def tokens(self) -> list[Tokens]:
        """Of each input. Only once `done`."""
        return [one.tokens for one in self.inputs if one.tokens is not None]


@dataclass(slots=True)
class _Batch:
    lane: BatchQueue
    inputs: list[QueuedInput]
    vectors: Vectors | None = None
    error: BaseException | None = None
    seconds: float = 0.0
    computed: int = 0
    """Tokens, padding included."""


@dataclass(slots=True)
class Batcher:
    """Computes what it is asked for, in batches. All methods belong to the event loop."""

    workers: int
    max_batch_tokens: int
    """0 leaves it to the encoder."""
    max_wait_s: float
    limits: Limits
    cache: Cache
    metrics: Metrics
    tokens: int = field(default=0, init=False)
    """Tokens that wait or are computed now, each distinct text once."""
    tokens_per_s: float = field(default=0.0, init=False)
    """What the last batches did, all threads together; 0 before the first."""
    _inputs: int = field(default=0, init=False)
    _chars: int = field(default=0, init=False)
    _idle: int = field(default=0, init=False)
    _lanes: dict[tuple[Encoder, EncodeOptions], BatchQueue] = field(default_factory=dict, init=False)
    _arrival: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _ready: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def submit(self, encoder: Encoder, texts: Sequence[str], options: EncodeOptions) -> QueuedRequest:
        """Queue the texts; those that wait already or are in the cache aren't computed again. Raises `Overloaded`.

        Whoever submits must `release` the request, answered or not.
        """
        chars = sum(map(len, texts))
        self._admit(len(texts), chars, encoder)
        self._count(len(texts), chars)
        now = time.monotonic()
        request = QueuedRequest([], chars, asyncio.get_running_loop().create_future(), now)
        lane = self._lane(encoder, options)
        for text in texts:
            one = lane.open.get(text) or self._cached(encoder, options, text)
            if one is None:
                one = lane.open[text] = QueuedInput(text, now, count=_estimate(text, encoder))
                lane.arrived.append(one)
                self.tokens += one.count
            one.wanted += 1
            if one.vector is None:
                one.requests.append(request)
                request.missing += 1
            request.inputs.append(one)
        if not request.missing:
            request.done.set_result(None)
        if lane.arrived:
            self._arrival.set()
        self._close_if_empty(lane)
        return request

    def release(self, request: QueuedRequest) -> None:
        """The request is answered or given up: what only it wanted is dropped."""
        self._count(-len(request.inputs), -request.chars)
        for one in request.inputs:
            one.wanted -= 1
        if not request.done.done():
            request.done.cancel()
            self.metrics.abandoned.inc()
        elif not request.done.cancelled():
            request.done.exception()  # asyncio complains of an error that nobody looked at

    async def run(self) -> None:
        """Work until cancelled."""
        tokeniser = ThreadPoolExecutor(1, thread_name_prefix="tokeniser")
        inference = ThreadPoolExecutor(self.workers, thread_name_prefix="inference")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tokenise_arrivals(tokeniser))
                for _ in range(self.workers):
                    tasks.create_task(self._compute_batches(inference))
        finally:
            for pool in (tokeniser, inference):
                pool.shutdown(wait=False, cancel_futures=True)

    # ---- admission

    def _admit(self, inputs: int, chars: int, encoder: Encoder) -> None:
        limits = self.limits
        # Estimated, and cached texts cost less: the true count replaces it once the text is tokenised.
        tokens = self.tokens + min(chars // CHARS_PER_TOKEN, inputs * (encoder.max_tokens or chars))
        wait = self.tokens / self.tokens_per_s if self.tokens_per_s else 0.0
        fits = self._inputs + inputs <= limits.inputs and self._chars + chars <= limits.chars
        # Whatever its size, a request that would be alone is taken.
        if not fits or (self.tokens and (tokens > limits.tokens or wait > limits.seconds)):
            self.metrics.refused.inc()
            raise Overloaded(min(max(1, math.ceil(wait)), LONGEST_RETRY_S))

    def _count(self, inputs: int, chars: int) -> None:
        self._inputs += inputs
        self._chars += chars
        self.metrics.queued_inputs.set(self._inputs)

    def _lane(self, encoder: Encoder, options: EncodeOptions) -> BatchQueue:
        lane = self._lanes.get((encoder, options))
        if lane is None:
            lane = self._lanes[encoder, options] = BatchQueue(encoder, options)
        return lane

    def _close_if_empty(self, lane: BatchQueue) -> None:
        """A lane holds its encoder: no trace may stay of a version that is gone."""
        if not lane.open:
            self._lanes.pop((lane.encoder, lane.options), None)

    def _cached(self, encoder: Encoder, options: EncodeOptions, text: str) -> QueuedInput | None:
        entry = self.cache.get(encoder.version, options, text)
        if entry is None:
            self.metrics.cache_misses.inc()
            return None
        self.metrics.cache_hits.inc()
        tokens = Tokens(entry.count, entry.total, None)
        return QueuedInput(text, 0.0, tokens, entry.count, taken=True, vector=entry.vector)

    # ---- tokenising

    async def _tokenise_arrivals(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            lane = min(
                (lane for lane in self._lanes.values() if lane.arrived),
                key=lambda lane: lane.arrived[0].since,
                default=None,
            )
            if lane is None:
                self._arrival.clear()
                await self._arrival.wait()
                continue
            inputs = [lane.arrived.popleft() for _ in range(min(len(lane.arrived), TOKENISE_AT_ONCE))]
            inputs = self._without_unwanted(lane, inputs)
            if inputs:
                began = time.monotonic()
                error = await loop.run_in_executor(pool, _tokenise, lane, inputs)
                self._tokenised(lane, inputs, error, time.monotonic() - began)

    def _tokenised(
        self, lane: BatchQueue, inputs: list[QueuedInput], error: BaseException | None, seconds: float
    ) -> None:
        self.metrics.tokenise_seconds.observe(seconds)
        if error is not None:
            self._settle(_Batch(lane, inputs, error=error))
            return
        for one in inputs:
            assert one.tokens is not None
            self.tokens += one.tokens.count - one.count
            one.count = one.tokens.count
            for request in one.requests:
                request.tokenise_s = seconds
        lane.add(inputs)
        self._ready.set()

    def _without_unwanted(self, lane: BatchQueue, inputs: list[QueuedInput]) -> list[QueuedInput]:
        """Forget the inputs whose callers all left."""
        for one in inputs:
            if not one.wanted:
                del lane.open[one.text]
                self.tokens -= one.count
        self._close_if_empty(lane)
        return [one for one in inputs if one.wanted]

    # ---- computing

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
            await loop.run_in_executor(pool, _compute, batch)
            self._settle(batch)

    def _next_batch(self) -> _Batch | None:
        """Out of the lane whose input waits longest."""
        while True:
            waiting = [(lane.oldest, lane) for lane in self._lanes.values() if len(lane)]
            if not waiting:
                return None
            _, lane = min(waiting, key=lambda pair: pair[0].since if pair[0] else 0.0)
            inputs = lane.cut(self._budget(lane), time.monotonic() - self.max_wait_s)
            inputs = self._without_unwanted(lane, inputs)
            if inputs:
                now = time.monotonic()
                for request in {request for one in inputs for request in one.requests}:
                    if request.began is None:
                        request.began = now
                        self.metrics.queue_seconds.observe(now - request.since)
                return _Batch(lane, inputs)

    def _budget(self, lane: BatchQueue) -> int:
        """Tokens of the next batch: less than the most when other threads would have nothing to do."""
        budget = self.max_batch_tokens or lane.encoder.batch_tokens
        if self._idle and lane.encoder.padded:
            budget = min(budget, max(LEAST_SHARE, math.ceil(lane.tokens / (self._idle + 1))))
        return budget

    def _settle(self, batch: _Batch) -> None:
        """Tell the requests whose last input this was."""
        lane, now = batch.lane, time.monotonic()
        for place, one in enumerate(batch.inputs):
            self.tokens -= one.count
            del lane.open[one.text]
            if batch.vectors is not None and one.tokens is not None:
                one.vector = batch.vectors[place]
                self.cache.put(lane.encoder.version, lane.options, one.text, one.tokens, one.vector)
            for request in one.requests:
                request.missing -= 1
                if request.done.done():
                    continue
                if batch.error is not None:
                    request.done.set_exception(EncodingFailed(batch.error))
                elif not request.missing:
                    request.ended = now
                    request.done.set_result(None)
        self._close_if_empty(lane)
        if batch.vectors is not None:
            self._measure(batch)

    def _measure(self, batch: _Batch) -> None:
        count, total = len(batch.inputs), sum(one.count for one in batch.inputs)
        metrics = self.metrics
        metrics.encode_seconds.observe(batch.seconds)
        metrics.batch_inputs.observe(count)
        metrics.batch_tokens.observe(batch.computed)
        metrics.padding_tokens.inc(batch.computed - total)
        metrics.tokens.inc(total)
        metrics.queued_tokens.set(self.tokens)
        speed = total * self.workers / max(batch.seconds, 1e-6)
        self.tokens_per_s = speed if not self.tokens_per_s else 0.9 * self.tokens_per_s + 0.1 * speed


def _estimate(text: str, encoder: Encoder) -> int:
    tokens = len(text) // CHARS_PER_TOKEN + 2
    return min(tokens, encoder.max_tokens) if encoder.max_tokens else tokens


def _tokenise(lane: BatchQueue, inputs: Sequence[QueuedInput]) -> BaseException | None:
    """In the tokeniser's thread. What went wrong, if anything."""
    try:
        found = lane.encoder.tokenise([one.text for one in inputs], lane.options)
        for one, tokens in zip(inputs, found, strict=True):
            one.tokens = tokens
    except BaseException as error:  # a panic inside the tokenizers library is no Exception
        log.exception("%s: tokenising %d texts failed", lane.encoder.version, len(inputs))
        return error
    return None


def _compute(batch: _Batch) -> None:
    """In one of the inference threads."""
    began, encoder = time.perf_counter(), batch.lane.encoder
    counts = [one.count for one in batch.inputs]
    batch.computed = cost(len(counts), max(counts), sum(counts), encoder.padded)
    try:
        tokens = [one.tokens for one in batch.inputs if one.tokens is not None]
        batch.vectors = encoder.encode(tokens, batch.lane.options)
    except BaseException as error:
        log.exception("%s: a batch of %d failed", encoder.version, len(batch.inputs))
        batch.error = error
    batch.seconds = time.perf_counter() - began
