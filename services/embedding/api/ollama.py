"""Ollama's protocol, as far as its clients embed with it: `/api/embed`, the older `/api/embeddings`, and its lists."""

import json
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from services.embedding.api.errors import describe_errors
from services.embedding.api.requests import Ignored, Prompted, Texts, post
from services.embedding.api.serialization import VERSION_HEADER, answer, json_array, json_vectors
from services.embedding.serving.service import EmbeddingService, EmbedRequest
from shared import __version__
from shared.manifest import Manifest


class OllamaBody(Prompted):
    """What both routes have. `options` and `keep_alive` are about Ollama's own engine; the prompts' fields are ours."""

    model: str | None = None
    options: Ignored = None
    keep_alive: Ignored = None


class EmbedBody(OllamaBody):
    """`POST /api/embed`."""

    EXAMPLE: ClassVar = {"model": "current", "input": ["A man is playing a guitar.", "Somebody makes music."]}
    input: Texts
    truncate: bool | None = True
    dimensions: int | None = None


class EmbeddingsBody(OllamaBody):
    """`POST /api/embeddings`."""

    EXAMPLE: ClassVar = {"model": "current", "prompt": "A man is playing a guitar."}
    prompt: str


class OllamaError(BaseModel):
    """What is wrong."""

    error: str


class EmbedAnswer(BaseModel):
    """Vectors in the order of the inputs; durations in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsAnswer(BaseModel):
    """One vector."""

    embedding: list[float]


_ERRORS = describe_errors(OllamaError, 400, 401, 404, 408, 413, 415, 422, 429, 503, 504)


def router(service: EmbeddingService) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["Ollama"])

    @post(
        routes, ("/api/embed",), EmbedBody, EmbedAnswer, _ERRORS, "Texts to vectors, as Ollama's clients ask for them"
    )
    async def _embed(http: Request, body: EmbedBody) -> Response:
        truncate = body.truncate is not False
        request = _request(http, body, body.input, truncate=truncate, dimensions=body.dimensions, field="input")
        result = await service.embed(request, http.receive)
        about = {"model": body.model or "current", "total_duration": round(result.total_s * 1e9), "load_duration": 0}
        rest = json.dumps(about | {"prompt_eval_count": result.tokens}).encode()
        content = b'{"embeddings":%b,%b' % (json_array(await json_vectors(result.vectors, service.writing)), rest[1:])
        return answer(content, result)

    summary = "One text to a vector, as older clients of Ollama ask"

    @post(routes, ("/api/embeddings",), EmbeddingsBody, EmbeddingsAnswer, _ERRORS, summary)
    async def _embeddings(http: Request, body: EmbeddingsBody) -> Response:
        result = await service.embed(_request(http, body, [body.prompt], field="prompt"), http.receive)
        return answer(b'{"embedding":%b}' % (await json_vectors(result.vectors, service.writing))[0], result)

    @routes.get("/api/tags", summary="The versions that can be named in `model`", responses=_ERRORS)
    async def _tags() -> dict[str, Any]:
        encoders = {"current": service.versions.get_loaded(None)} | service.versions.loaded
        return {"models": [_tag(name, encoder.manifest) for name, encoder in encoders.items()]}

    @routes.get("/api/version", summary="The version of this program")
    async def _version() -> dict[str, str]:
        return {"version": __version__}

    return routes


def _request(http: Request, body: OllamaBody, texts: list[str], **options: Any) -> EmbedRequest:
    versions = (body.model, http.headers.get(VERSION_HEADER))
    return EmbedRequest(texts, versions, prompt_name=body.prompt_name, input_type=body.input_type, **options)


def _tag(name: str, manifest: Manifest) -> dict[str, Any]:
    size = sum(entry.size for entry in manifest.files.values())
    details = {"format": "safetensors", "family": "pairwright", "embedding_length": manifest.dimensions}
    modified = manifest.created.isoformat()
    return {
        "name": name,
        "model": name,
        "modified_at": modified,
        "size": size,
        "digest": manifest.id,
        "details": details,
    }
