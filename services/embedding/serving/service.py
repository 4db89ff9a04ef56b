"""What both protocols ask for: texts in, vectors of one version out. Refusals are `Problem`s."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect

from services.embedding.metrics import Metrics
from services.embedding.models.base import EncodeOptions, Encoder, Side, Tokens, Vectors
from services.embedding.serving.batcher import Batcher, EncodingFailed, Overloaded
from services.embedding.serving.batcher import QueuedRequest as Queued
from services.embedding.serving.registry import NotReady, NotServed, VersionRegistry
from shared.http.problems import Problem
from shared.tracing import span

VERSION_HEADER = "x-pairwright-version"
TRUNCATED_HEADER = "x-pairwright-truncated"
WINDOWS_HEADER = "x-pairwright-windows"


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """How a caller wants texts embedded. `field` is its protocol's name for them."""

    texts: list[str]
    version: str | None = None
    """A version's id; None for the one that serves."""
    prompt_name: str | None = None
    normalize: bool = True
    truncate: bool = True
    truncation_side: Side = "right"
    dimensions: int | None = None
    chunk: bool = False
    """Read a long text in windows and answer with their mean, instead of cutting it."""
    field: str = "inputs"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a request, by stage."""

    total: float = 0.0
    tokenise: float = 0.0
    queue: float = 0.0
    inference: float = 0.0


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer to a `Wish`."""

    vectors: Vectors
    """float32 [texts, dimensions]."""
    version: str
    tokens: int
    """Tokens that were read, counted for every text of the request."""
    truncated: int
    """Texts that were longer than the version reads."""
    windows: int
    """Windows that were read, where the caller asked for them; otherwise 0."""
    chars: int
    times: Times

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says of itself: its version, and text-embeddings-inference's headers, in milliseconds."""
        headers = {
            VERSION_HEADER: self.version,
            "x-compute-type": "cpu",
            "x-compute-time": _ms(self.times.total),
            "x-compute-characters": str(self.chars),
            "x-compute-tokens": str(self.tokens),
            "x-total-time": _ms(self.times.total),
            "x-tokenization-time": _ms(self.times.tokenise),
            "x-queue-time": _ms(self.times.queue),
            "x-inference-time": _ms(self.times.inference),
        }
        if self.truncated:
            headers[TRUNCATED_HEADER] = str(self.truncated)
        if self.windows:
            headers[WINDOWS_HEADER] = str(self.windows)
        return headers


class EmbeddingService:
    """Checks a wish against a version, computes it through the batcher and shapes the vectors."""

    def __init__(
        self, versions: VersionRegistry, batcher: Batcher, metrics: Metrics, max_client_inputs: int, request_s: float
    ) -> None:
        self._versions, self._batcher, self._metrics = versions, batcher, metrics
        self._max_client_inputs, self._request_s = max_client_inputs, request_s

    def serving(self) -> Encoder:
        """The version that answers who names none. Raises `Problem` 503."""
        try:
            return self._versions.pick(None)
        except NotReady as error:
            raise _not_ready(error) from None

    async def encoder(self, version: str | None) -> Encoder:
        """The version that a caller named, loaded for it if need be. Raises `Problem`: 404 or 503."""
        try:
            return await self._versions.find(version)
        except NotServed as error:
            raise Problem(404, "No such version", str(error), code="model_not_found", param="model") from None
        except NotReady as error:
            raise _not_ready(error) from None

    async def embed(self, http: Request, wish: EmbedRequest) -> Embedded:
        """The vectors. Raises `Problem`, or `ClientDisconnect` when the caller left: then nothing more is computed."""
        try:
            async with asyncio.timeout(self._request_s):
                return await self._embed(http, wish)
        except TimeoutError:
            self._metrics.expired.inc()
            detail = f"Not answered within {self._request_s:g} s. Send fewer or shorter inputs, or try again later."
            raise Problem(504, "Too late", detail, {"Retry-After": "2"}, code="deadline_exceeded") from None

    async def _embed(self, http: Request, wish: EmbedRequest) -> Embedded:
        began = time.monotonic()
        _check(wish, self._max_client_inputs)
        # The version is fixed here: all the request's batches use it, whatever goes live meanwhile.
        encoder = await self.encoder(wish.version or http.headers.get(VERSION_HEADER))
        dimensions = _dimensions(wish, encoder)
        options = EncodeOptions(_prompt(wish, encoder), wish.truncation_side)
        texts, sizes = wish.texts, [1] * len(wish.texts)
        if wish.chunk:
            pieces = await asyncio.to_thread(lambda: [encoder.windows(text, options) for text in wish.texts])
            texts, sizes = [piece for of_text in pieces for piece in of_text], [len(of_text) for of_text in pieces]
        with span("encode", inputs=len(texts), version=encoder.version):
            queued, vectors, tokens = await self._compute(http, encoder, texts, options)
        truncated = [one for one in tokens if one.total > one.count]
        self._metrics.truncated.inc(len(truncated))
        if truncated and not wish.truncate:
            longest = max(one.total for one in truncated)
            detail = f"`{wish.field}` must have at most {encoder.max_tokens} tokens each; given: {longest}."
            raise Problem(422, "Input too long", detail, code="input_too_long", param=wish.field)
        if len(texts) > len(wish.texts):
            vectors = _mean(vectors, [one.count for one in tokens], sizes)
        return Embedded(
            vectors=_shape(vectors, dimensions, wish.normalize),
            version=encoder.version,
            tokens=sum(one.count for one in tokens),
            truncated=len(truncated),
            windows=len(texts) if wish.chunk else 0,
            chars=queued.chars,
            times=_times(queued, began),
        )

    async def _compute(
        self, http: Request, encoder: Encoder, texts: list[str], options: EncodeOptions
    ) -> tuple[Queued, Vectors, list[Tokens]]:
        try:
            queued = self._batcher.submit(encoder, texts, options)
        except Overloaded as error:
            detail = f"Too much is waiting. Try again in {error.retry_after} s, or send fewer inputs at once."
            headers = {"Retry-After": str(error.retry_after)}
            raise Problem(429, "Overloaded", detail, headers, code="overloaded") from None
        try:
            await _until_done_or_gone(http, queued.done)
            return queued, queued.vectors, queued.tokens
        except EncodingFailed:
            raise Problem(
                500, "Encoding failed", "The model failed on these inputs; the log has the details."
            ) from None
        finally:
            self._batcher.release(queued)


def _not_ready(error: NotReady) -> Problem:
    return Problem(503, "Not ready", str(error), {"Retry-After": "2"}, code="not_ready")


def _check(wish: EmbedRequest, most: int) -> None:
    if not wish.texts or not all(wish.texts):
        detail = f"`{wish.field}` cannot be empty, nor contain an empty string"
        raise Problem(400, "Empty input", detail, code="empty_input", param=wish.field)
    if len(wish.texts) > most:
        detail = f"`{wish.field}`: batch size {len(wish.texts)} > maximum allowed batch size {most}"
        raise Problem(422, "Too many inputs", detail, code="too_many_inputs", param=wish.field)


def _prompt(wish: EmbedRequest, encoder: Encoder) -> str:
    if wish.prompt_name is None:
        return encoder.default_prompt
    return find_prompt(encoder, wish.prompt_name)


def find_prompt(encoder: Encoder, name: str) -> str:
    """A version's prompt by its name. Raises `Problem`."""
    if name not in encoder.prompts:
        known = ", ".join(sorted(encoder.prompts)) or "none"
        detail = f"`prompt_name` {name!r} is unknown to {encoder.version}; it has: {known}"
        raise Problem(422, "Unknown prompt", detail, code="unknown_prompt", param="prompt_name")
    return encoder.prompts[name]


def _dimensions(wish: EmbedRequest, encoder: Encoder) -> int:
    """How many leading dimensions to answer with. A prefix means something only where training made it so."""
    native = encoder.manifest.dimensions
    if wish.dimensions is None or wish.dimensions == native:
        return native
    trained = encoder.manifest.matryoshka
    if wish.dimensions in trained:
        return wish.dimensions
    allowed = ", ".join(map(str, sorted({native, *trained})))
    detail = f"`dimensions` {wish.dimensions}: {encoder.version} has {allowed} and can't be cut to others"
    raise Problem(422, "Wrong dimensions", detail, code="wrong_dimensions", param="dimensions")


def _mean(vectors: Vectors, counts: list[int], sizes: list[int]) -> Vectors:
    """One vector a text out of its windows': the mean, weighted by tokens. Windows: `sizes[i]` of text i, in order."""
    weighted = vectors * np.asarray(counts, dtype=np.float32)[:, None]
    starts = np.cumsum([0, *sizes[:-1]])
    totals = np.add.reduceat(np.asarray(counts, dtype=np.float32), starts)
    mean: Vectors = np.add.reduceat(weighted, starts, axis=0) / np.maximum(totals, 1)[:, None]
    return mean


def _shape(vectors: Vectors, dimensions: int, normalize: bool) -> Vectors:
    """Truncate, then normalise. Zero vectors (texts without a known token) stay zero. Raises `Problem`."""
    vectors = vectors[:, :dimensions]
    if normalize:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(lengths, np.float32(1e-12))
    if not np.isfinite(vectors).all():
        raise Problem(500, "Encoding failed", "The model gave vectors that are no numbers for these inputs.")
    return vectors


def _times(queued: Queued, began: float) -> Times:
    now = time.monotonic()
    if queued.began is None or queued.ended is None:  # all of it was known
        return Times(total=now - began)
    queue = max(0.0, queued.began - queued.since - queued.tokenise_s)
    return Times(now - began, queued.tokenise_s, queue, queued.ended - queued.began)


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))


async def _until_done_or_gone(http: Request, done: asyncio.Future[None]) -> None:
    """Wait for the vectors, or raise `ClientDisconnect`: once the body is read, ASGI's next message is its leaving."""
    if done.done():
        return done.result()
    gone: asyncio.Future[Any] = asyncio.ensure_future(http.receive())
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientDisconnect
        done.result()
    finally:
        gone.cancel()
