"""The dispatcher: requests in, one batch at a time through the encoder, requests answered.

No waiting window: a batch is cut when the model is free, so a lone request waits for nobody and a crowd shares batches.
One thread tokenises and computes. While it works on the lanes, the event loop touches only what has newly arrived.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from services.embedding.batching import Input, cost, cut
from services.embedding.encoder import Encoder, Options, Vectors
from services.embedding.metrics import Metrics

log = logging.getLogger(__name__)

Lane = tuple[Encoder, Options]

TOKENISE_AT_ONCE = 2048
"""Inputs tokenised before the next batch is cut: a long backlog must not hold up the batch that could run now."""


class Overloaded(Exception):
    """Too much is waiting already; try again soon."""


class EncodingFailed(Exception):
    """The encoder failed on a batch; the log has the reason."""


@dataclass(slots=True, eq=False)
class Request:
    """A request's inputs, all of one version, and the future that is set when the last of them has its vector."""

    lane: Lane
    inputs: list[Input]
    chars: int
    done: asyncio.Future[None]
    missing: int

    @property
    def vectors(self) -> Vectors:
        """float32 [len(inputs), dimensions], in the order asked for. Only once `done`."""
        return np.stack([one.vector for one in self.inputs if one.vector is not None])


@dataclass(slots=True)
class _Step:
    """What one turn of the inference thread did."""

    lane: Lane
    dropped: list[Input]
    """Inputs that nobody wanted when it looked."""
    done: list[Input] = field(default_factory=list)
    """Inputs with their vector or error."""


class Batcher:
    """Computes what it is asked for, in batches. All methods belong to the event loop."""

    def __init__(
        self, *, max_batch_tokens: int, max_inputs: int, max_chars: int, max_wait_s: float, metrics: Metrics
    ) -> None:
        self._max_batch_tokens, self._max_wait_s = max_batch_tokens, max_wait_s
        self._max_inputs, self._max_chars = max_inputs, max_chars
        self._metrics = metrics
        self._inputs = self._chars = 0
        self._open: dict[tuple[Lane, str], Input] = {}
        self._arrived: list[tuple[Lane, Input]] = []
        self._lanes: dict[Lane, list[Input]] = {}
        self._work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")

    def submit(self, encoder: Encoder, texts: Sequence[str], options: Options) -> Request:
        """Queue the texts; identical ones that wait already are computed once. Raises `Overloaded`.

        Whoever submits must `release` the request, answered or not.
        """
        chars = sum(map(len, texts))
        if self._inputs + len(texts) > self._max_inputs or self._chars + chars > self._max_chars:
            self._metrics.refused.inc()
            raise Overloaded
        self._count(len(texts), chars)
        lane, now = (encoder, options), time.monotonic()
        request = Request(lane, [], chars, asyncio.get_running_loop().create_future(), len(texts))
        for text in texts:
            waiting = self._open.get((lane, text))
            if waiting is None:
                waiting = self._open[lane, text] = Input(text, now)
                self._arrived.append((lane, waiting))
            waiting.wanted += 1
            waiting.requests.append(request)
            request.inputs.append(waiting)
        self._work.set()
        return request

    def release(self, request: Request) -> None:
        """The request is answered or given up: what only it wanted is dropped."""
        self._count(-len(request.inputs), -request.chars)
        for one in request.inputs:
            one.wanted -= 1
        if not request.done.done():
            request.done.cancel()
            self._metrics.abandoned.inc()

    async def run(self) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._work.wait()
                for lane, one in self._arrived:
                    self._lanes.setdefault(lane, []).append(one)
                self._arrived.clear()
                if not self._lanes:
                    self._work.clear()
                    continue
                self._settle(await loop.run_in_executor(self._thread, self._step))
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _count(self, inputs: int, chars: int) -> None:
        self._inputs += inputs
        self._chars += chars
        self._metrics.queued_inputs.set(self._inputs)

    # ---- in the inference thread, which owns the lanes meanwhile

    def _step(self) -> _Step:
        """Tokenise what needs it, cut a batch of the lane whose input waits longest, and compute it."""
        lane = self._next_lane()
        waiting = self._lanes.pop(lane)
        step = _Step(lane, dropped=[one for one in waiting if not one.wanted])
        waiting = [one for one in waiting if one.wanted]
        in_hand: list[Input] = []
        try:
            in_hand = [one for one in waiting if one.tokens is None][:TOKENISE_AT_ONCE]
            self._tokenise(lane, in_hand)
            in_hand = self._cut(lane, [one for one in waiting if one.tokens is not None])
            self._encode(lane, in_hand)
        except BaseException as error:  # a panic inside the tokenizers library is no Exception
            log.exception("%s: a batch of %d failed", lane[0].version, len(in_hand))
            for one in in_hand:
                one.error = error
        step.done = in_hand
        rest = [one for one in waiting if one.vector is None and one.error is None]
        if rest:
            self._lanes[lane] = rest
        return step

    def _next_lane(self) -> Lane:
        if len(self._lanes) == 1:
            return next(iter(self._lanes))
        return min(self._lanes, key=lambda lane: min(one.since for one in self._lanes[lane]))

    def _tokenise(self, lane: Lane, inputs: Sequence[Input]) -> None:
        encoder, options = lane
        if inputs:
            for one, tokens in zip(inputs, encoder.tokenise([one.text for one in inputs], options), strict=True):
                one.tokens = tokens

    def _cut(self, lane: Lane, ready: Sequence[Input]) -> list[Input]:
        if not ready:
            return []
        return cut(ready, self._max_batch_tokens, lane[0].padded, time.monotonic() - self._max_wait_s)

    def _encode(self, lane: Lane, batch: Sequence[Input]) -> None:
        if not batch:
            return
        encoder, options = lane
        began = time.perf_counter()
        vectors = encoder.encode([one.tokens for one in batch if one.tokens], options)
        self._metrics.encode_seconds.observe(time.perf_counter() - began)
        total, longest = sum(one.count for one in batch), max(one.count for one in batch)
        computed = cost(len(batch), longest, total, encoder.padded)
        self._metrics.batch_inputs.observe(len(batch))
        self._metrics.batch_tokens.observe(computed)
        self._metrics.padding_tokens.inc(computed - total)
        for one, vector in zip(batch, vectors, strict=True):
            one.vector = vector

    # ---- back on the event loop

    def _settle(self, step: _Step) -> None:
        """Tell the requests whose last input this was."""
        for one in step.dropped:
            if one.wanted:  # asked for again while it was being dropped
                self._arrived.append((step.lane, one))
            else:
                del self._open[step.lane, one.text]
        for one in step.done:
            del self._open[step.lane, one.text]
            for request in one.requests:
                request.missing -= 1
                if request.done.done():
                    continue
                if one.error is not None:
                    request.done.set_exception(EncodingFailed(one.error))
                elif not request.missing:
                    request.done.set_result(None)
