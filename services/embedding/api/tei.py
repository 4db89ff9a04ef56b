"""text-embeddings-inference's protocol: `/embed`, `/`, `/similarity`, `/tokenize`, `/decode`, `/info`, `/health`."""

import asyncio
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from services.embedding.api.errors import describe_errors
from services.embedding.api.requests import LenientBody, Texts, parse, post, read_json
from services.embedding.api.serialization import VERSION_HEADER, answer, json_array, json_response, json_vectors
from services.embedding.models.base import Token
from services.embedding.serving.errors import EmptyInput, InvalidInput
from services.embedding.serving.registry import VersionRegistry
from services.embedding.serving.service import EmbeddingService, EmbedRequest, find_prompt
from services.embedding.settings import EmbeddingSettings
from shared import __version__
from shared.http.pages import index


class Reading(LenientBody):
    """How texts are read. Nulls mean the defaults."""

    truncate: bool | None = True
    truncation_direction: Literal["Left", "left", "Right", "right"] | None = "Right"
    prompt_name: str | None = None

    def embed_request(self, http: Request, texts: list[str], **more: Any) -> EmbedRequest:
        """The core's request for `texts`."""
        return EmbedRequest(
            texts=texts,
            version=http.headers.get(VERSION_HEADER),
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


class Sentences(LenientBody):
    """One sentence, and those that it is compared with."""

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


class TeiError(BaseModel):
    """What is wrong, and its kind in text-embeddings-inference's words."""

    error: str
    error_type: str


_ERRORS = describe_errors(TeiError, 400, 401, 404, 408, 413, 422, 429, 503, 504)
_NOT_READY = describe_errors(TeiError, 503)


def router(service: EmbeddingService, settings: EmbeddingSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["text-embeddings-inference"])
    _add_computing_routes(routes, service)
    _add_token_routes(routes, service)
    _add_information_routes(routes, service.versions, settings)
    return routes


def _add_computing_routes(routes: APIRouter, service: EmbeddingService) -> None:
    summary = "Texts to vectors: a bare nested list, also for a single text"

    @post(routes, ("/embed",), EmbedBody, list[list[float]], _ERRORS, summary)
    async def _embed(http: Request, body: EmbedBody) -> Response:
        normalize, chunk = body.normalize is not False, bool(body.chunk)
        request = body.embed_request(http, body.inputs, normalize=normalize, dimensions=body.dimensions, chunk=chunk)
        result = await service.embed(request, http.receive)
        with service.metrics.write_seconds.time():
            content = json_array(await json_vectors(result.vectors))
        return answer(content, result)

    summary = "The cosine of one sentence with each of others"

    @post(routes, ("/similarity",), SimilarityBody, list[float], _ERRORS, summary)
    async def _similarity(http: Request, body: SimilarityBody) -> Response:
        texts = [body.inputs.source_sentence, *body.inputs.sentences]
        if not body.inputs.sentences:
            raise EmptyInput("`inputs.sentences` cannot be empty", "inputs")
        request = (body.parameters or Reading()).embed_request(http, texts)
        result = await service.embed(request, http.receive)
        cosines = result.vectors[1:] @ result.vectors[0]
        return answer(orjson.dumps(cosines.clip(-1, 1), option=orjson.OPT_SERIALIZE_NUMPY), result)

    @routes.post("/invocations", include_in_schema=False)
    @routes.post("/", include_in_schema=False)
    async def _by_inputs(http: Request) -> Response:
        # Clients of both kinds post to the root; the shape of `inputs` says which answer they want.
        body = await read_json(http)
        if isinstance(body, dict) and isinstance(body.get("inputs"), dict):
            return await _similarity(http, parse(body, SimilarityBody))
        return await _embed(http, parse(body, EmbedBody))


def _add_token_routes(routes: APIRouter, service: EmbeddingService) -> None:
    summary = "The tokens of texts, as the model reads them; nothing is truncated"

    @post(routes, ("/tokenize",), TokenizeBody, list[list[Token]], _ERRORS, summary)
    async def _tokenize(http: Request, body: TokenizeBody) -> Response:
        service.check_size(body.inputs, "inputs")
        encoder = await service.versions.get(http.headers.get(VERSION_HEADER))
        prompt = find_prompt(encoder, body.prompt_name) if body.prompt_name is not None else ""
        tokens = await asyncio.to_thread(encoder.list_tokens, body.inputs, prompt, body.add_special_tokens is not False)
        return json_response(orjson.dumps(tokens), {VERSION_HEADER: encoder.version})

    @post(routes, ("/decode",), DecodeBody, list[str], _ERRORS, "The texts of token ids of this model")
    async def _decode(http: Request, body: DecodeBody) -> Response:
        rows: list[Any] = body.ids if body.ids and isinstance(body.ids[0], list) else [body.ids]
        service.check_size(rows if body.ids else [], "ids")
        encoder = await service.versions.get(http.headers.get(VERSION_HEADER))
        try:
            texts = await asyncio.to_thread(encoder.decode, rows, body.skip_special_tokens is not False)
        except ValueError as error:
            raise InvalidInput(f"`ids`: {error}", "ids") from None
        return json_response(orjson.dumps(texts), {VERSION_HEADER: encoder.version})


def _add_information_routes(routes: APIRouter, versions: VersionRegistry, settings: EmbeddingSettings) -> None:
    @routes.get("/health", summary="200 once a version serves", response_class=Response, responses=_NOT_READY)
    @routes.get("/ping", include_in_schema=False)
    async def _health() -> Response:
        return Response(headers={VERSION_HEADER: versions.get_loaded(None).version})

    @routes.get("/", include_in_schema=False)
    async def _index(http: Request) -> Response:
        # Clients take it for `/health`, people for the way in.
        response = index(http.app, http)
        response.headers[VERSION_HEADER] = versions.get_loaded(None).version
        return response

    @routes.get("/info", summary="The version that serves and the limits", responses=_NOT_READY)
    async def _info(response: Response) -> dict[str, Any]:
        encoder = versions.get_loaded(None)
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
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
