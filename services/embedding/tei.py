"""text-embeddings-inference's protocol: `POST /embed`, `POST /`, `GET /info`, `GET /health`."""

from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from services.embedding.bodies import LenientBody, Texts, describe_body, read_body
from services.embedding.embedder import VERSION_HEADER, Embedder, Wish
from services.embedding.settings import EmbeddingSettings
from services.embedding.wire import json_array, json_vectors


class EmbedBody(LenientBody):
    """`POST /embed`. Nulls mean the defaults."""

    inputs: Texts
    normalize: bool | None = True
    truncate: bool | None = True
    truncation_direction: Literal["Left", "left", "Right", "right"] | None = "Right"
    prompt_name: str | None = None
    dimensions: int | None = None

    def wish(self) -> Wish:
        """What is asked for, in our own words."""
        return Wish(
            texts=self.inputs,
            prompt_name=self.prompt_name,
            normalize=self.normalize is not False,
            # null leaves it to the server, which truncates, as text-embeddings-inference does since 1.9.
            truncate=self.truncate is not False,
            truncation_side="left" if self.truncation_direction in ("Left", "left") else "right",
            dimensions=self.dimensions,
        )


def router(embedder: Embedder, settings: EmbeddingSettings, code_version: str) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["text-embeddings-inference"])

    @routes.post("/", include_in_schema=False)
    @routes.post(
        "/embed",
        summary="Texts to vectors: a bare nested list, also for a single text",
        response_class=Response,
        responses={200: {"content": {"application/json": {"schema": _VECTORS}}}, **_ERRORS},
        openapi_extra=describe_body(EmbedBody),
    )
    async def _embed(request: Request) -> Response:
        body = await read_body(request, EmbedBody)
        embedded = await embedder.embed(request, body.wish())
        content = json_array(await json_vectors(embedded.vectors))
        return Response(content, media_type="application/json", headers=embedded.headers)

    @routes.get("/health", summary="200 once a version serves", response_class=Response)
    @routes.get("/", include_in_schema=False)
    async def _health() -> Response:
        return Response(headers={VERSION_HEADER: embedder.encoder(None).version})

    @routes.get("/info", summary="The version that serves and the limits")
    async def _info(response: Response) -> dict[str, Any]:
        encoder = embedder.encoder(None)
        response.headers[VERSION_HEADER] = encoder.version
        return {
            "model_id": encoder.manifest.base,
            "model_sha": encoder.version,
            "model_dtype": "float32",
            "served_model_name": encoder.version,
            "model_type": {"embedding": {"pooling": encoder.pooling}},
            "max_concurrent_requests": settings.max_queue_inputs,
            "max_input_length": encoder.max_tokens,
            "max_batch_tokens": settings.max_batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_client_inputs,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": code_version,
            "sha": None,
            "docker_label": None,
        }

    return routes


_VECTORS: dict[str, Any] = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "error_type": {"type": "string"}},
    "required": ["error", "error_type"],
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for status, text in {
        400: "Empty input, or no JSON",
        401: "No known key",
        404: "The pinned version isn't loaded",
        413: "The body is too large",
        422: "Invalid input",
        429: "Overloaded; see Retry-After",
        503: "No version is loaded yet",
    }.items()
}
