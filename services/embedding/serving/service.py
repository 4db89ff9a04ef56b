"""What the protocols ask for: texts in, vectors of one version out. Refusals are the errors of `errors`."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from services.embedding.metrics import Metrics
from services.embedding.models.base import EncodeOptions, Encoder, Side, Vectors
from services.embedding.serving.batcher import Batcher
from services.embedding.serving.errors import CallerLeft, DeadlineExceeded, EmptyInput, EncodingFailed, InvalidInput
from services.embedding.serving.queue import QueuedRequest
from services.embedding.serving.registry import RETRY_AFTER_S, VersionRegistry
from services.embedding.settings import EmbeddingSettings
from shared.tracing import span

InputType = Literal["query", "search_query", "document", "search_document", "passage", "classification", "clustering"]
"""What a text is for, in the words of the protocols."""
_QUERY, _DOCUMENT = ("query",), ("document", "passage", "corpus")
PROMPTS: dict[InputType, tuple[str, ...]] = {
    "query": _QUERY,
    "search_query": _QUERY,
    "document": _DOCUMENT,
    "search_document": _DOCUMENT,
    "passage": _DOCUMENT,
    "classification": ("classification",),
    "clustering": ("clustering",),
}
"""The names of its prompt, as sentence-transformers looks for them."""
WaitForLeaving = Callable[[], Awaitable[Any]]
"""Returns when the caller has left."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts, and how they are read. `field` is its protocol's name for them."""

    texts: list[str]
    versions: tuple[str | None, ...] = ()  # what the caller names, in several places; nothing: the one that serves
    prompt_name: str | None = None
    input_type: InputType | None = None  # instead: the version chooses its prompt, if it has one for this type
    normalize: bool = True
    truncate: bool = True
    truncation_side: Side = "right"
    dimensions: int | None = None
    chunk: bool = False  # read a long text in windows and answer with their mean, instead of cutting it
    field: str = "inputs"


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The answer to an `EmbedRequest`."""

    vectors: Vectors  # float32 [texts, dimensions]
    version: str
    int8_range: float  # what int8 covers of `vectors`, if they are normalised
    tokens: int  # that were read, counted for every text of the request
    truncated: int  # texts that were longer than the version reads
    unknown: int  # texts without a token that the version knows: their vectors are zero
    windows: int  # that were read, where the caller asked for them; otherwise 0
    total_s: float
    queued: QueuedRequest  # has the other times


class EmbeddingService:
    """Checks a request against a version, computes it through the batcher and shapes the vectors."""

    def __init__(
        self, versions: VersionRegistry, batcher: Batcher, settings: EmbeddingSettings, metrics: Metrics
    ) -> None:
        self.versions, self.metrics, self._batcher = versions, metrics, batcher
        self.writing = asyncio.Lock()  # of whoever writes a large answer
        self._max_inputs, self._request_s = settings.max_client_inputs, settings.request_seconds

    async def embed(self, request: EmbedRequest, wait_for_leaving: WaitForLeaving) -> EmbedResult:
        """The vectors. Raises `EmbeddingError`, or `CallerLeft`: then nothing more is computed."""
        async with self.deadline():
            return await self._embed(request, wait_for_leaving)

    @contextlib.asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """What a request may take. Raises `DeadlineExceeded`."""
        try:
            async with asyncio.timeout(self._request_s):
                yield
        except TimeoutError:
            self.metrics.expired.inc()
            detail = f"Not answered within {self._request_s:g} s. Send fewer or shorter inputs, or try again later."
            raise DeadlineExceeded(detail, retry_after=RETRY_AFTER_S) from None

    async def _embed(self, request: EmbedRequest, wait_for_leaving: WaitForLeaving) -> EmbedResult:
        started_at = time.monotonic()
        self.check_texts(request.texts, request.field)
        # The version is fixed here: all the request's batches use it, whatever goes live meanwhile.
        encoder = await self.versions.choose(*request.versions)
        dimensions, options = dimensions_of(request, encoder), options_of(request, encoder)
        texts, sizes = request.texts, [1] * len(request.texts)
        if request.chunk:
            windows = await self._batcher.run_apart(
                encoder, len(texts), sum(map(len, texts)), lambda: [encoder.windows(text, options) for text in texts]
            )
            texts, sizes = [window for of_text in windows for window in of_text], list(map(len, windows))
        with span("encode", inputs=len(texts), version=encoder.version):
            queued = await self._compute(encoder, texts, options, wait_for_leaving)
        vectors, tokens = queued.vectors, queued.tokens
        truncated = [place for place, text in enumerate(tokens) if text.total > text.count]
        self.metrics.truncated.inc(len(truncated))
        if truncated and not request.truncate:
            raise _too_long(request, encoder, truncated[0], tokens[truncated[0]].total)
        counts = [text.count for text in tokens]
        if len(texts) > len(request.texts):
            vectors = _mean(vectors, counts, sizes)
        result = EmbedResult(
            vectors=shape(vectors, dimensions, request.normalize),
            version=encoder.version,
            int8_range=encoder.int8_ranges[dimensions],
            tokens=sum(counts),
            truncated=len(truncated),
            unknown=len(vectors) - int(np.count_nonzero(vectors.any(axis=1))),
            windows=len(texts) if request.chunk else 0,
            total_s=time.monotonic() - started_at,
            queued=queued,
        )
        self._observe(result)
        return result

    def _observe(self, result: EmbedResult) -> None:
        tei, queued = self.metrics.tei, result.queued
        tei.request_duration.observe(result.total_s)
        tei.tokenization_duration.observe(queued.tokenise_s)
        tei.queue_duration.observe(queued.queue_s)
        tei.inference_duration.observe(queued.inference_s)

    async def _compute(
        self, encoder: Encoder, texts: list[str], options: EncodeOptions, wait_for_leaving: WaitForLeaving
    ) -> QueuedRequest:
        """Raises `CallerLeft` when the caller leaves first."""
        queued = self._batcher.submit(encoder, texts, options)
        left = None if queued.done.done() else asyncio.ensure_future(wait_for_leaving())
        try:
            if left is not None:
                await asyncio.wait({queued.done, left}, return_when=asyncio.FIRST_COMPLETED)
            if not queued.done.done():
                raise CallerLeft
            queued.done.result()
            return queued
        finally:
            if left is not None:
                left.cancel()
            self._batcher.release(queued)

    def stats(self) -> dict[str, float]:
        """How much waits, by infinity's names."""
        return self._batcher.stats()

    def check_texts(self, texts: Sequence[str], field: str) -> None:
        """Raises `EmptyInput` or `InvalidInput`."""
        self.check_size(texts, field)
        if not all(texts):
            which = f": item {next(place for place, text in enumerate(texts) if not text)} is" if len(texts) > 1 else ""
            raise EmptyInput(f"`{field}` cannot be empty, nor contain an empty string{which}", field)

    def check_size(self, inputs: Sequence[object], field: str) -> None:
        """Raises `EmptyInput` or `InvalidInput`."""
        if not inputs:
            raise EmptyInput(f"`{field}` cannot be empty", field)
        if len(inputs) > self._max_inputs:
            detail = f"`{field}`: batch size {len(inputs)} > maximum allowed batch size {self._max_inputs}"
            raise InvalidInput(detail, field, "too_many_inputs")


def options_of(request: EmbedRequest, encoder: Encoder) -> EncodeOptions:
    """How a version reads the request's texts. Raises `InvalidInput`."""
    prompt = find_prompt(encoder, request.prompt_name, request.input_type)
    return EncodeOptions(encoder.default_prompt if prompt is None else prompt, request.truncation_side)


def find_prompt(encoder: Encoder, name: str | None, input_type: InputType | None) -> str | None:
    """A version's prompt by its name or for a type of input; None where neither chooses one. Raises `InvalidInput`."""
    if name is not None and input_type is not None:
        detail = "`prompt_name` and `input_type` both choose the prompt: send one of them"
        raise InvalidInput(detail, "input_type", "conflicting_prompts")
    if input_type is not None:
        own = prompts_by_type(encoder).get(input_type)
        return None if own is None else encoder.prompts[own]
    if name is not None and name not in encoder.prompts:
        # The list is text-embeddings-inference's: its clients look for it.
        names = ", ".join(f'"{own}"' for own in sorted(encoder.prompts))
        detail = f"`prompt_name` {name!r} is unknown to {encoder.version}. Available prompts: [{names}]"
        raise InvalidInput(detail, "prompt_name", "unknown_prompt")
    return None if name is None else encoder.prompts[name]


def prompts_by_type(encoder: Encoder) -> dict[InputType, str]:
    """The name of a version's prompt for each type of input that it has one for."""
    # sentence-transformers gives every model an empty `query` and `document`, which say nothing.
    own = {kind: [name for name in names if encoder.prompts.get(name)] for kind, names in PROMPTS.items()}
    return {kind: names[0] for kind, names in own.items() if names}


def _too_long(request: EmbedRequest, encoder: Encoder, place: int, tokens: int) -> InvalidInput:
    which = f" (item {place})" if len(request.texts) > 1 else ""
    limit = f"must have at most {encoder.max_tokens} tokens each; given: {tokens}{which}."
    return InvalidInput(f"`{request.field}` {limit}", request.field, "input_too_long")


def dimensions_of(request: EmbedRequest, encoder: Encoder) -> int:
    """How many leading dimensions to answer with. Raises `InvalidInput`."""
    # A prefix means something only where training made it so.
    native, trained = encoder.manifest.dimensions, encoder.manifest.matryoshka
    if request.dimensions is None or request.dimensions == native:
        return native
    if request.dimensions in trained:
        return request.dimensions
    allowed = ", ".join(map(str, sorted({native, *trained})))
    detail = f"`dimensions` {request.dimensions}: {encoder.version} has {allowed} and can't be cut to others"
    raise InvalidInput(detail, "dimensions", "wrong_dimensions")


def _mean(vectors: Vectors, counts: list[int], sizes: list[int]) -> Vectors:
    """One vector a text out of its windows': the mean, weighted by tokens. Windows: `sizes[i]` of text i, in order."""
    weights = np.asarray(counts, dtype=np.float32)
    starts = np.cumsum([0, *sizes[:-1]])
    totals = np.add.reduceat(weights, starts)
    mean: Vectors = np.add.reduceat(vectors * weights[:, None], starts, axis=0) / np.maximum(totals, 1)[:, None]
    return mean


def shape(vectors: Vectors, dimensions: int, normalize: bool) -> Vectors:
    """Cut, then normalise. Zero vectors (texts of unknown tokens only) stay zero. Raises `EncodingFailed`."""
    vectors = vectors[:, :dimensions]
    if normalize:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(lengths, np.float32(1e-12))
    if not np.isfinite(vectors).all():
        raise EncodingFailed("The model gave vectors that are no numbers for these inputs.")
    return vectors
