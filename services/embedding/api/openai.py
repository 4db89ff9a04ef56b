"""OpenAI's protocol: `POST /v1/embeddings` and `GET /v1/models`."""

import json
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from services.embedding.api.requests import LenientBody, Texts, describe_body, read_body
from services.embedding.api.serialization import base64_vectors, json_array, json_vectors
from services.embedding.metrics import Metrics
from services.embedding.models.base import Encoder
from services.embedding.serving.registry import VersionRegistry
from services.embedding.serving.service import Embedded, EmbeddingService, EmbedRequest


class EmbeddingsBody(LenientBody):
    """`POST /v1/embeddings`. `user` and other fields are ignored."""

    input: Texts
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None
    chunk: bool | None = False
    """Ours: read long texts in windows and answer with their mean."""

    def wish(self) -> EmbedRequest:
        """What is asked for, in our own words."""
        return EmbedRequest(
            texts=self.input, version=self.model, dimensions=self.dimensions, chunk=bool(self.chunk), field="input"
        )


def router(embedder: EmbeddingService, versions: VersionRegistry, metrics: Metrics) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/embeddings", include_in_schema=False)
    @routes.post(
        "/v1/embeddings",
        summary="Texts to vectors, as OpenAI's clients ask for them",
        response_class=Response,
        responses={200: {"content": {"application/json": {"schema": _ANSWER}}}, **_ERRORS},
        openapi_extra=describe_body(EmbeddingsBody),
    )
    async def _embeddings(request: Request) -> Response:
        body = await read_body(request, EmbeddingsBody)
        embedded = await embedder.embed(request, body.wish())
        as_base64 = body.encoding_format == "base64"
        with metrics.write_seconds.time():
            vectors = base64_vectors(embedded.vectors) if as_base64 else await json_vectors(embedded.vectors)
            content = _answer(embedded, vectors)
        return Response(content, media_type="application/json", headers=embedded.headers)

    @routes.get("/v1/models", summary="The versions that can be named in `model`", responses=_ERRORS)
    @routes.get("/models", include_in_schema=False)
    async def _models() -> dict[str, Any]:
        serving = [_model("current", embedder.serving())]
        loaded = [_model(encoder.version, encoder) for encoder in versions.loaded.values()]
        return {"object": "list", "data": serving + loaded}

    @routes.get("/v1/models/{model}", summary="One version that can be named in `model`", responses=_ERRORS)
    async def _one_model(model: str) -> dict[str, Any]:
        return _model(model, await embedder.encoder(model))

    return routes


def _answer(embedded: Embedded, vectors: list[bytes]) -> bytes:
    items = [
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector) for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    rest = json.dumps({"model": embedded.version, "usage": usage}).encode()
    return b'{"object":"list","data":%b,%b' % (json_array(items), rest[1:])


def _model(name: str, encoder: Encoder) -> dict[str, Any]:
    created = int(encoder.manifest.created.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "pairwright", "root": encoder.version}


_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["object", "index", "embedding"],
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {
                        "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string", "format": "byte"}]
                    },
                },
            },
        },
        "model": {"type": "string", "description": "The id of the version that made the vectors"},
        "usage": {
            "type": "object",
            "properties": {"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}},
        },
    },
}
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {name: {"type": ["string", "null"]} for name in ("message", "type", "param", "code")},
        }
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for status, text in {
        400: "Invalid input",
        401: "No known key",
        404: "There is no such version",
        408: "The body came too slowly",
        413: "The body is too large",
        429: "Overloaded; see Retry-After",
        503: "No version is loaded yet",
        504: "The deadline has passed",
    }.items()
}
