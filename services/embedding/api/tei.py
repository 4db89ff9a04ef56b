"""text-embeddings-inference's protocol: vectors, similarities, tokens, and what it says of itself."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from services.embedding.api.errors import describe_errors
from services.embedding.api.requests import Ignored, Prompted, StrictBody, Texts, Typed, parse, post, read_json
from services.embedding.api.serialization import (
    VERSION_HEADER,
    answer,
    json_array,
    json_response,
    json_vectors,
    write_vectors,
)
from services.embedding.models.base import Token, Vectors
from services.embedding.serving.errors import EmptyInput
from services.embedding.serving.registry import VersionRegistry
from services.embedding.serving.service import EmbeddingService, EmbedRequest, EmbedResult, prompts_by_type
from services.embedding.serving.tokens import TokenService
from services.embedding.settings import EmbeddingSettings
from shared import __version__
from shared.http.pages import index
from shared.http.problems import Problem


class Truncation(StrictBody):
    """How long texts are read. Nulls mean the defaults."""

    truncate: bool | None = True
    truncation_direction: Literal["Left", "left", "Right", "right"] | None = "Right"

    def embed_request(self, http: Request, texts: list[str], **more: Any) -> EmbedRequest:
        """The core's request for `texts`."""
        options: dict[str, Any] = {
            "versions": (http.headers.get(VERSION_HEADER),),
            # null leaves it to the server, which truncates, as text-embeddings-inference does since 1.9.
            "truncate": self.truncate is not False,
            "truncation_side": "left" if self.truncation_direction in ("Left", "left") else "right",
        }
        return EmbedRequest(texts, **options | more)


class Reading(Truncation, Prompted):
    """How texts are read."""

    def embed_request(self, http: Request, texts: list[str], **more: Any) -> EmbedRequest:
        prompt = {"prompt_name": self.prompt_name, "input_type": self.input_type}
        return super().embed_request(http, texts, **prompt | more)


class EmbedBody(Reading, Typed):  # type: ignore[misc]  # to the pydantic plugin, bases clash
    """`POST /embed`. `chunk` is ours: read long texts in windows and answer with their mean."""

    EXAMPLE: ClassVar = {"inputs": ["A man is playing a guitar.", "Somebody makes music."]}
    inputs: Texts
    normalize: bool | None = True
    dimensions: int | None = None
    chunk: bool | None = False
    model: Ignored = None
    options: Ignored = None


class EmbedAllBody(Reading):
    """`POST /embed_all`."""

    EXAMPLE: ClassVar = {"inputs": "A man is playing a guitar."}
    inputs: Texts
    normalize: Ignored = None


class RerankBody(Truncation):
    """`POST /rerank`. A score is (1 + cosine) / 2 of this bi-encoder's vectors, or the cosine itself: `raw_scores`."""

    EXAMPLE: ClassVar = {"query": "Who makes music?", "texts": ["It rains.", "A man is playing a guitar."]}
    query: str
    texts: Annotated[list[str], Field(min_length=1)]
    raw_scores: bool | None = False
    return_text: bool | None = False


class Rank(BaseModel):
    """A text's place in `texts`, and its score."""

    index: int
    score: float
    text: str | None = None


class Sentences(StrictBody):
    """One sentence, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityBody(StrictBody):
    """`POST /similarity`."""

    EXAMPLE: ClassVar = {"inputs": {"source_sentence": "Who makes music?", "sentences": ["It rains.", "I sing."]}}

    inputs: Sentences
    parameters: Reading | None = None
    model: Ignored = None
    options: Ignored = None


class TokenizeBody(Prompted):
    """`POST /tokenize`."""

    EXAMPLE: ClassVar = {"inputs": "A man is playing a guitar."}

    inputs: Texts
    add_special_tokens: bool | None = True


class DecodeBody(StrictBody):
    """`POST /decode`."""

    EXAMPLE: ClassVar = {"ids": [1, 2, 3]}

    ids: list[int] | list[list[int]]
    skip_special_tokens: bool | None = True


class TeiError(BaseModel):
    """What is wrong, and its kind in text-embeddings-inference's words."""

    error: str
    error_type: str


_ERRORS = describe_errors(TeiError, 400, 401, 404, 408, 413, 415, 422, 429, 503, 504)
_NOT_READY = describe_errors(TeiError, 503)


def router(service: EmbeddingService, tokens: TokenService, settings: EmbeddingSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["text-embeddings-inference"])
    _add_computing_routes(routes, service)
    _add_rerank_route(routes, service)
    _add_token_routes(routes, service, tokens)
    _add_refusals(routes)
    _add_information_routes(routes, service.versions, settings)
    return routes


def _add_computing_routes(routes: APIRouter, service: EmbeddingService) -> None:
    summary = "Texts to vectors: a bare nested list, also for a single text"

    @post(routes, ("/embed",), EmbedBody, list[list[float]] | list[str], _ERRORS, summary)
    async def _embed(http: Request, body: EmbedBody) -> Response:
        normalize, chunk = body.normalize is not False, bool(body.chunk)
        request = body.embed_request(http, body.inputs, normalize=normalize, dimensions=body.dimensions, chunk=chunk)
        result = await service.embed(request, http.receive)
        with service.metrics.write_seconds.time():
            content = json_array(await write_vectors(body.kind or "float", result, service.writing))
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


def _add_rerank_route(routes: APIRouter, service: EmbeddingService) -> None:
    summary = "Texts by their cosine with a query, the nearest first: a bi-encoder's order, not a cross-encoder's"

    @post(routes, ("/rerank",), RerankBody, list[Rank], _ERRORS, summary)
    async def _rerank(http: Request, body: RerankBody) -> Response:
        result, cosines = await rank(service, body, http)
        scores = cosines if body.raw_scores else (1 + cosines) / 2
        order = np.argsort(-cosines, kind="stable").tolist()
        ranks = [{"index": place, "score": float(scores[place])} for place in order]
        if body.return_text:
            ranks = [one | {"text": body.texts[place]} for one, place in zip(ranks, order, strict=True)]
        response = answer(orjson.dumps(ranks), result)
        response.headers["x-pairwright-scores"] = "bi-encoder cosine"
        return response


async def rank(service: EmbeddingService, body: RerankBody, http: Request) -> tuple[EmbedResult, Vectors]:
    """The texts' result, and their cosines with the query; each side is read under the version's prompt for it."""
    encoder = await service.versions.choose(http.headers.get(VERSION_HEADER))
    same = {"versions": (encoder.version,)}  # both sides are the same version's, whatever goes live meanwhile
    asked = body.embed_request(http, [body.query], input_type="query", field="query", **same)
    query = await service.embed(asked, http.receive)
    found = body.embed_request(http, body.texts, input_type="document", field="texts", **same)
    result = await service.embed(found, http.receive)
    return result, (result.vectors @ query.vectors[0]).clip(-1, 1)


def _add_token_routes(routes: APIRouter, service: EmbeddingService, tokens: TokenService) -> None:
    summary = "The tokens of texts, as the model reads them; nothing is truncated"

    @post(routes, ("/tokenize",), TokenizeBody, list[list[Token]], _ERRORS, summary)
    async def _tokenize(http: Request, body: TokenizeBody) -> Response:
        version, special = http.headers.get(VERSION_HEADER), body.add_special_tokens is not False
        encoder, listed = await tokens.list_tokens(body.inputs, version, body.prompt_name, body.input_type, special)
        return json_response(orjson.dumps(listed), {VERSION_HEADER: encoder.version})

    @post(routes, ("/decode",), DecodeBody, list[str], _ERRORS, "The texts of token ids of this model")
    async def _decode(http: Request, body: DecodeBody) -> Response:
        rows: list[Any] = body.ids if body.ids and isinstance(body.ids[0], list) else [body.ids]
        version, skip_special = http.headers.get(VERSION_HEADER), body.skip_special_tokens is not False
        encoder, texts = await tokens.decode(rows if body.ids else [], version, skip_special)
        return json_response(orjson.dumps(texts), {VERSION_HEADER: encoder.version})

    summary = "A vector for each token of each text: what the model pools"

    @post(routes, ("/embed_all",), EmbedAllBody, list[list[list[float]]], _ERRORS, summary)
    async def _embed_all(http: Request, body: EmbedAllBody) -> Response:
        encoder, vectors = await tokens.token_vectors(body.embed_request(http, body.inputs))
        content = json_array([json_array(await json_vectors(rows, service.writing)) for rows in vectors])
        return json_response(content, {VERSION_HEADER: encoder.version})


def _add_refusals(routes: APIRouter) -> None:
    """Routes of other kinds of models: their clients are told so in their own words."""
    reasons = {
        "/predict": "`/predict` asks for a classifier or a cross-encoder; this is a sentence encoder: see `/rerank`",
        "/embed_sparse": "`/embed_sparse` asks for a SPLADE model; this is a dense sentence encoder: see `/embed`",
    }

    @routes.post("/predict", include_in_schema=False)
    @routes.post("/embed_sparse", include_in_schema=False)
    async def _refuse(http: Request) -> Response:
        raise Problem(424, "Failed dependency", reasons[http.url.path])


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
            "model_type": {"embedding": {"pooling": encoder.pooling.replace("lasttoken", "last_token")}},
            "max_concurrent_requests": settings.max_queue_inputs,
            # The protocol has a number here. A static model has no limit but the body's.
            "max_input_length": encoder.max_tokens or settings.max_body_bytes,
            "max_batch_tokens": settings.max_batch_tokens or encoder.batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_client_inputs,
            "auto_truncate": True,
            "prompts": encoder.prompts,
            "default_prompt": encoder.default_prompt,
            "input_types": prompts_by_type(encoder),
            "tokenization_workers": 1,
            "version": __version__,
            "sha": None,
            "docker_label": None,
            "rerank": "cosines of this bi-encoder, as (1 + cosine) / 2 unless raw_scores",
        }
