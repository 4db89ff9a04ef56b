"""text-embeddings-inference's protocol: `/embed`, `/`, `/similarity`, `/tokenize`, `/decode`, `/info`, `/health`."""

import asyncio
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from services.embedding.api.requests import LenientBody, Texts, describe_body, parse, read_body, read_json
from services.embedding.api.serialization import json_array, json_vectors
from services.embedding.api.tei_schemas import ERRORS, INFO, SIMILARITIES, TEXTS, TOKENS, VECTORS
from services.embedding.metrics import Metrics
from services.embedding.serving.service import VERSION_HEADER, Embedded, EmbeddingService, EmbedRequest, find_prompt
from services.embedding.settings import EmbeddingSettings
from shared.http.problems import Problem

Direction = Literal["Left", "left", "Right", "right"]


class Reading(LenientBody):
    """How texts are read. Nulls mean the defaults."""

    truncate: bool | None = True
    truncation_direction: Direction | None = "Right"
    prompt_name: str | None = None

    def wish(self, texts: list[str], **more: Any) -> EmbedRequest:
        """What is asked for, in our own words."""
        return EmbedRequest(
            texts=texts,
            prompt_name=self.prompt_name,
            # null leaves it to the server, which truncates, as text-embeddings-inference does since 1.9.
            truncate=self.truncate is not False,
            truncation_side="left" if self.truncation_direction in ("Left", "left") else "right",
            **more,
        )


class EmbedBody(Reading):
    """`POST /embed`. `chunk` is ours: read long texts in windows and answer with their mean."""

    inputs: Texts
    normalize: bool | None = True
    dimensions: int | None = None
    chunk: bool | None = False


class Sentences(BaseModel):
    """One sentence, and those that it is compared with."""

    model_config = ConfigDict(strict=True, extra="ignore")

    source_sentence: str
    sentences: list[str]


class SimilarityBody(LenientBody):
    """`POST /similarity`."""

    inputs: Sentences
    parameters: Reading | None = None


class TokenizeBody(LenientBody):
    """`POST /tokenize`."""

    inputs: Texts
    add_special_tokens: bool | None = True
    prompt_name: str | None = None


class DecodeBody(LenientBody):
    """`POST /decode`."""

    ids: list[int] | list[list[int]]
    skip_special_tokens: bool | None = True


def router(embedder: EmbeddingService, settings: EmbeddingSettings, metrics: Metrics, code_version: str) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["text-embeddings-inference"])
    _add_computing_routes(routes, embedder, metrics)
    _add_token_routes(routes, embedder, settings)
    _add_information_routes(routes, embedder, settings, code_version)
    return routes


def _add_computing_routes(routes: APIRouter, embedder: EmbeddingService, metrics: Metrics) -> None:
    async def embed(request: Request, body: EmbedBody) -> Response:
        wish = body.wish(
            body.inputs, normalize=body.normalize is not False, dimensions=body.dimensions, chunk=bool(body.chunk)
        )
        embedded = await embedder.embed(request, wish)
        with metrics.write_seconds.time():
            content = json_array(await json_vectors(embedded.vectors))
        return _answer(content, embedded)

    async def similarity(request: Request, body: SimilarityBody) -> Response:
        texts = [body.inputs.source_sentence, *body.inputs.sentences]
        if not body.inputs.sentences:
            detail = "`inputs.sentences` cannot be empty"
            raise Problem(400, "Empty input", detail, code="empty_input", param="inputs")
        embedded = await embedder.embed(request, (body.parameters or Reading()).wish(texts))
        cosines = embedded.vectors[1:] @ embedded.vectors[0]
        return _answer(orjson.dumps(cosines.clip(-1, 1), option=orjson.OPT_SERIALIZE_NUMPY), embedded)

    @routes.post(
        "/embed",
        summary="Texts to vectors: a bare nested list, also for a single text",
        response_class=Response,
        responses={200: VECTORS, **ERRORS},
        openapi_extra=describe_body(EmbedBody),
    )
    async def _embed(request: Request) -> Response:
        return await embed(request, await read_body(request, EmbedBody))

    @routes.post(
        "/similarity",
        summary="The cosine of one sentence with each of others",
        response_class=Response,
        responses={200: SIMILARITIES, **ERRORS},
        openapi_extra=describe_body(SimilarityBody),
    )
    async def _similarity(request: Request) -> Response:
        return await similarity(request, await read_body(request, SimilarityBody))

    @routes.post("/invocations", include_in_schema=False)
    @routes.post("/", include_in_schema=False)
    async def _by_inputs(request: Request) -> Response:
        # Clients of both kinds post to the root; what they send says which they want.
        body = await read_json(request)
        if isinstance(body, dict) and isinstance(body.get("inputs"), dict):
            return await similarity(request, parse(body, SimilarityBody))
        return await embed(request, parse(body, EmbedBody))


def _add_token_routes(routes: APIRouter, embedder: EmbeddingService, settings: EmbeddingSettings) -> None:
    @routes.post(
        "/tokenize",
        summary="The tokens of texts, as the model reads them; nothing is truncated",
        response_class=Response,
        responses={200: TOKENS, **ERRORS},
        openapi_extra=describe_body(TokenizeBody),
    )
    async def _tokenize(request: Request) -> Response:
        body = await read_body(request, TokenizeBody)
        _check_size(body.inputs, "inputs", settings)
        encoder = await embedder.encoder(request.headers.get(VERSION_HEADER))
        prompt = find_prompt(encoder, body.prompt_name) if body.prompt_name is not None else ""
        special = body.add_special_tokens is not False
        tokens = await asyncio.to_thread(encoder.show_tokens, body.inputs, prompt, special)
        return _json(orjson.dumps(tokens), encoder.version)

    @routes.post(
        "/decode",
        summary="The texts of token ids of this model",
        response_class=Response,
        responses={200: TEXTS, **ERRORS},
        openapi_extra=describe_body(DecodeBody),
    )
    async def _decode(request: Request) -> Response:
        body = await read_body(request, DecodeBody)
        rows: list[Any] = body.ids if body.ids and isinstance(body.ids[0], list) else [body.ids]
        _check_size(rows if body.ids else [], "ids", settings)
        encoder = await embedder.encoder(request.headers.get(VERSION_HEADER))
        try:
            texts = await asyncio.to_thread(encoder.decode, rows, body.skip_special_tokens is not False)
        except ValueError as error:
            raise Problem(422, "Unknown token", f"`ids`: {error}", param="ids") from None
        return _json(orjson.dumps(texts), encoder.version)


def _check_size(inputs: list[Any], field: str, settings: EmbeddingSettings) -> None:
    if not inputs:
        raise Problem(400, "Empty input", f"`{field}` cannot be empty", code="empty_input", param=field)
    if len(inputs) > settings.max_client_inputs:
        detail = f"`{field}`: batch size {len(inputs)} > maximum allowed batch size {settings.max_client_inputs}"
        raise Problem(422, "Too many inputs", detail, code="too_many_inputs", param=field)


def _add_information_routes(
    routes: APIRouter, embedder: EmbeddingService, settings: EmbeddingSettings, code_version: str
) -> None:
    @routes.get("/health", summary="200 once a version serves", response_class=Response, responses=_NOT_READY)
    @routes.get("/ping", include_in_schema=False)
    @routes.get("/", include_in_schema=False)
    async def _health() -> Response:
        return Response(headers={VERSION_HEADER: embedder.serving().version})

    @routes.get("/info", summary="The version that serves and the limits", responses={200: INFO, **_NOT_READY})
    async def _info(response: Response) -> dict[str, Any]:
        encoder = embedder.serving()
        response.headers[VERSION_HEADER] = encoder.version
        return {
            "model_id": encoder.manifest.base,
            "model_sha": encoder.version,
            "model_dtype": encoder.precision,
            "served_model_name": encoder.version,
            "model_type": {"embedding": {"pooling": encoder.pooling}},
            "max_concurrent_requests": settings.max_queue_inputs,
            # The protocol has a number here. A static model has no limit but the body's.
            "max_input_length": encoder.max_tokens or settings.max_body_bytes,
            "max_batch_tokens": settings.max_batch_tokens or encoder.batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_client_inputs,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": code_version,
            "sha": None,
            "docker_label": None,
        }


_NOT_READY: dict[int | str, dict[str, Any]] = {503: ERRORS[503]}


def _answer(content: bytes, embedded: Embedded) -> Response:
    return Response(content, media_type="application/json", headers=embedded.headers)


def _json(content: bytes, version: str) -> Response:
    return Response(content, media_type="application/json", headers={VERSION_HEADER: version})
