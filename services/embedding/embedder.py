"""What both protocols ask for: texts in, vectors of one version out. Refusals are `Problem`s."""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect

from services.embedding.batcher import Batcher, EncodingFailed, Overloaded
from services.embedding.encoder import Encoder, Options, Side, Vectors
from services.embedding.versions import NotReady, NotServed, Versions
from shared.http import Problem

VERSION_HEADER = "x-pairwright-version"
TRUNCATED_HEADER = "x-pairwright-truncated"


@dataclass(frozen=True, slots=True)
class Wish:
    """How a caller wants texts embedded. `field` and `dimensions_field` are its protocol's names for them."""

    texts: list[str]
    version: str | None = None
    """A loaded version's id; None for the one that serves."""
    prompt_name: str | None = None
    normalize: bool = True
    truncate: bool = True
    truncation_side: Side = "right"
    dimensions: int | None = None
    field: str = "inputs"


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

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says of itself."""
        headers = {VERSION_HEADER: self.version}
        if self.truncated:
            headers[TRUNCATED_HEADER] = str(self.truncated)
        return headers


class Embedder:
    """Checks a wish against a version, computes it through the batcher and shapes the vectors."""

    def __init__(self, versions: Versions, batcher: Batcher, max_client_inputs: int) -> None:
        self._versions, self._batcher, self._max_client_inputs = versions, batcher, max_client_inputs

    def encoder(self, version: str | None) -> Encoder:
        """The loaded version that a caller named. Raises `Problem`: 404 or 503."""
        try:
            return self._versions.pick(version)
        except NotServed as error:
            raise Problem(404, "No such version", str(error), code="model_not_found", param="model") from None
        except NotReady as error:
            raise Problem(503, "Not ready", str(error), {"Retry-After": "2"}, code="not_ready") from None

    async def embed(self, http: Request, wish: Wish) -> Embedded:
        """The vectors. Raises `Problem`, or `ClientDisconnect` when the caller left: then nothing more is computed."""
        pinned = wish.version or http.headers.get(VERSION_HEADER)
        # The version is fixed here: all the request's batches use it, whatever goes live meanwhile.
        encoder = self.encoder(pinned)
        self._check(wish)
        dimensions = _dimensions(wish, encoder)
        options = Options(_prompt(wish, encoder), wish.truncation_side)
        try:
            request = self._batcher.submit(encoder, wish.texts, options)
        except Overloaded:
            detail = "Too many inputs are waiting. Try again in a second, or send fewer at once."
            raise Problem(429, "Overloaded", detail, {"Retry-After": "1"}, code="overloaded") from None
        try:
            await _until_done_or_gone(http, request.done)
            tokens = [one.tokens for one in request.inputs if one.tokens is not None]
            vectors = request.vectors
        except EncodingFailed:
            raise Problem(
                500, "Encoding failed", "The model failed on these inputs; the log has the details."
            ) from None
        finally:
            self._batcher.release(request)
        truncated = [one for one in tokens if one.total > one.count]
        if truncated and not wish.truncate:
            longest = max(one.total for one in truncated)
            detail = f"`{wish.field}` must have at most {encoder.max_tokens} tokens each; given: {longest}."
            raise Problem(422, "Input too long", detail, code="input_too_long", param=wish.field)
        shaped = _shape(vectors, dimensions, wish.normalize)
        return Embedded(shaped, encoder.version, sum(one.count for one in tokens), len(truncated))

    def _check(self, wish: Wish) -> None:
        if not wish.texts or not all(wish.texts):
            detail = f"`{wish.field}` cannot be empty, nor contain an empty string"
            raise Problem(400, "Empty input", detail, code="empty_input", param=wish.field)
        if len(wish.texts) > self._max_client_inputs:
            detail = (
                f"`{wish.field}`: batch size {len(wish.texts)} > maximum allowed batch size {self._max_client_inputs}"
            )
            raise Problem(422, "Too many inputs", detail, code="too_many_inputs", param=wish.field)


def _prompt(wish: Wish, encoder: Encoder) -> str:
    if wish.prompt_name is None:
        return encoder.default_prompt
    if wish.prompt_name not in encoder.prompts:
        known = ", ".join(sorted(encoder.prompts)) or "none"
        detail = f"`prompt_name` {wish.prompt_name!r} is unknown to {encoder.version}; it has: {known}"
        raise Problem(422, "Unknown prompt", detail, code="unknown_prompt", param="prompt_name")
    return encoder.prompts[wish.prompt_name]


def _dimensions(wish: Wish, encoder: Encoder) -> int:
    """How many leading dimensions to answer with. A prefix means something only where training made it so."""
    native = encoder.manifest.dimensions
    if wish.dimensions is None or wish.dimensions == native:
        return native
    trained: list[int] = encoder.manifest.recipe.get("matryoshka_dims") or []
    if wish.dimensions in trained:
        return wish.dimensions
    allowed = ", ".join(map(str, sorted({native, *trained})))
    detail = f"`dimensions` {wish.dimensions}: {encoder.version} has {allowed} and can't be cut to others"
    raise Problem(422, "Wrong dimensions", detail, code="wrong_dimensions", param="dimensions")


def _shape(vectors: Vectors, dimensions: int, normalize: bool) -> Vectors:
    """Truncate, then normalise. Zero vectors (texts without a known token) stay zero. Raises `Problem`."""
    vectors = vectors[:, :dimensions]
    if normalize:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(lengths, np.float32(1e-12))
    if not np.isfinite(vectors).all():
        raise Problem(500, "Encoding failed", "The model gave vectors that are no numbers for these inputs.")
    return vectors


async def _until_done_or_gone(http: Request, done: asyncio.Future[None]) -> None:
    """Wait for the vectors, or raise `ClientDisconnect`: once the body is read, ASGI's next message is its leaving."""
    gone: asyncio.Future[Any] = asyncio.ensure_future(http.receive())
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientDisconnect
        done.result()
    finally:
        gone.cancel()
