"""OpenAI's protocol: `POST /v1/embeddings` and `GET /v1/models`."""

import asyncio
import json
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from services.embedding.api.errors import describe_errors
from services.embedding.api.openai_tokens import decode
from services.embedding.api.requests import SCHEMA, Ignored, Prompted, Typed, are_token_ids, check_texts, post
from services.embedding.api.serialization import VERSION_HEADER, answer, json_array, write_vectors
from services.embedding.models.base import Encoder
from services.embedding.serving.service import EmbeddingService, EmbedRequest, EmbedResult

_IDS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
TEXTS_OR_TOKEN_IDS = {"anyOf": [*SCHEMA["anyOf"], _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}


def _texts_or_token_ids(value: Any) -> Any:
    if isinstance(value, list) and are_token_ids(value):
        return value if isinstance(value[0], list) else [value]
    return check_texts(value)


class EmbeddingsBody(Prompted, Typed):  # type: ignore[misc]  # to the pydantic plugin, bases clash
    """`POST /v1/embeddings`. `prompt_name`, `input_type`, `normalize`, `chunk` and the types of numbers are ours.

    With `chunk`, long texts are read in windows and the answer is their mean.
    """

    EXAMPLE: ClassVar = {"model": "current", "input": ["A man is playing a guitar.", "Somebody makes music."]}
    input: Annotated[
        list[str] | list[list[int]], BeforeValidator(_texts_or_token_ids), WithJsonSchema(TEXTS_OR_TOKEN_IDS)
    ]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None
    normalize: bool | None = True
    chunk: bool | None = False
    user: Ignored = None


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


_ERRORS = describe_errors(OpenAIErrorAnswer, 400, 401, 404, 408, 413, 415, 429, 503, 504)


def router(service: EmbeddingService) -> APIRouter:
    """The routes."""
    routes, versions = APIRouter(tags=["OpenAI"]), service.versions

    paths, summary = ("/v1/embeddings", "/embeddings"), "Texts to vectors, as OpenAI's clients ask for them"

    @post(routes, paths, EmbeddingsBody, EmbeddingsAnswer, _ERRORS, summary)
    async def _embeddings(http: Request, body: EmbeddingsBody) -> Response:
        request = EmbedRequest(
            await texts_of(body.input),
            (body.model, http.headers.get(VERSION_HEADER)),
            prompt_name=body.prompt_name,
            input_type=body.input_type,
            normalize=body.normalize is not False,
            dimensions=body.dimensions,
            chunk=bool(body.chunk),
            field="input",
        )
        result = await service.embed(request, http.receive)
        kind = body.kind or "float"
        # OpenAI's library asks for base64 unless told otherwise, decodes float32 from it, and takes lists as they are.
        if kind == "float" and body.encoding_format == "base64":
            kind = "base64"
        with service.metrics.write_seconds.time():
            content = _content(result, await write_vectors(kind, result, service.writing))
        return answer(content, result)

    @routes.get("/v1/models", summary="The versions that can be named in `model`", responses=_ERRORS)
    @routes.get("/models", include_in_schema=False)
    async def _models() -> dict[str, Any]:
        encoders = {"current": versions.get_loaded(None)} | versions.loaded
        stats = service.stats()
        return {"object": "list", "data": [_model(name, encoder, stats) for name, encoder in encoders.items()]}

    @routes.get("/v1/models/{model}", summary="One version that can be named in `model`", responses=_ERRORS)
    async def _one_model(model: str) -> dict[str, Any]:
        return _model(model, await versions.get(model), service.stats())

    return routes


def _content(result: EmbedResult, vectors: list[bytes]) -> bytes:
    item = b'{"object":"embedding","index":%d,"embedding":%b}'
    items = [item % (index, vector) for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
    rest = json.dumps({"model": result.version, "usage": usage}).encode()
    return b'{"object":"list","data":%b,%b' % (json_array(items), rest[1:])


def _model(name: str, encoder: Encoder, stats: dict[str, float]) -> dict[str, Any]:
    """OpenAI's fields, and infinity's: what it computes with, what it can do, and how much waits."""
    created = int(encoder.manifest.created.timestamp())
    model = {"id": name, "object": "model", "created": created, "owned_by": "pairwright", "root": encoder.version}
    return model | {"backend": encoder.backend, "capabilities": ["embed"], "stats": stats}


async def texts_of(inputs: list[str] | list[list[int]]) -> list[str]:
    """Texts as they are; OpenAI's token ids decoded, where this machine has their table. Raises `InvalidInput`."""
    if inputs and isinstance(inputs[0], list):
        return await asyncio.to_thread(decode, inputs)
    return inputs  # type: ignore[return-value]  # the body's check lets nothing else pass
