"""OpenAI's protocol: `POST /v1/embeddings` and `GET /v1/models`."""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from services.embedding.api.errors import describe_errors
from services.embedding.api.requests import LenientBody, Texts, post
from services.embedding.api.serialization import VERSION_HEADER, answer, base64_vectors, json_array, json_vectors
from services.embedding.models.base import Encoder
from services.embedding.serving.service import EmbeddingService, EmbedRequest, EmbedResult


class EmbeddingsBody(LenientBody):
    """`POST /v1/embeddings`. `user` and other fields are ignored."""

    input: Texts
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None
    chunk: bool | None = False
    """Ours: read long texts in windows and answer with their mean."""


class EmbeddingItem(BaseModel):
    """One input's vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | Annotated[str, Field(json_schema_extra={"format": "byte"})]


class Usage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """All the vectors, in the order of the inputs."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: Annotated[str, Field(description="The id of the version that made the vectors")]
    usage: Usage


class OpenAIError(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorAnswer(BaseModel):
    """OpenAI's form of an error."""

    error: OpenAIError


_ERRORS = describe_errors(OpenAIErrorAnswer, 400, 401, 404, 408, 413, 429, 503, 504)


def router(service: EmbeddingService) -> APIRouter:
    """The routes."""
    routes, versions = APIRouter(tags=["OpenAI"]), service.versions

    paths, summary = ("/v1/embeddings", "/embeddings"), "Texts to vectors, as OpenAI's clients ask for them"

    @post(routes, paths, EmbeddingsBody, EmbeddingsAnswer, _ERRORS, summary)
    async def _embeddings(http: Request, body: EmbeddingsBody) -> Response:
        version, chunk = body.model or http.headers.get(VERSION_HEADER), bool(body.chunk)
        request = EmbedRequest(body.input, version, dimensions=body.dimensions, chunk=chunk, field="input")
        result = await service.embed(request, http.receive)
        as_base64 = body.encoding_format == "base64"
        with service.metrics.write_seconds.time():
            vectors = base64_vectors(result.vectors) if as_base64 else await json_vectors(result.vectors)
            content = _content(result, vectors)
        return answer(content, result)

    @routes.get("/v1/models", summary="The versions that can be named in `model`", responses=_ERRORS)
    @routes.get("/models", include_in_schema=False)
    async def _models() -> dict[str, Any]:
        encoders = {"current": versions.get_loaded(None)} | versions.loaded
        return {"object": "list", "data": [_model(name, encoder) for name, encoder in encoders.items()]}

    @routes.get("/v1/models/{model}", summary="One version that can be named in `model`", responses=_ERRORS)
    async def _one_model(model: str) -> dict[str, Any]:
        return _model(model, await versions.get(model))

    return routes


def _content(result: EmbedResult, vectors: list[bytes]) -> bytes:
    item = b'{"object":"embedding","index":%d,"embedding":%b}'
    items = [item % (index, vector) for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
    rest = json.dumps({"model": result.version, "usage": usage}).encode()
    return b'{"object":"list","data":%b,%b' % (json_array(items), rest[1:])


def _model(name: str, encoder: Encoder) -> dict[str, Any]:
    created = int(encoder.manifest.created.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "pairwright", "root": encoder.version}
