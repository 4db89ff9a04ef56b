"""Cohere's protocol: `POST /v2/embed`, with its smaller types of numbers."""

import asyncio
import uuid
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from services.embedding.api.errors import describe_errors
from services.embedding.api.requests import Ignored, StrictBody, post
from services.embedding.api.serialization import VERSION_HEADER, answer, base64_vectors, json_array, json_vectors
from services.embedding.models.base import Vectors
from services.embedding.serving.service import EmbeddingService, EmbedRequest, EmbedResult, prompt_for

Kind = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
ROLES = {"search_query": "query", "search_document": "document"}


class EmbedBody(StrictBody):
    """`POST /v2/embed`. `input_type` chooses the version's prompt for a query or a document, if it has one."""

    EXAMPLE: ClassVar = {
        "model": "current", "input_type": "search_query", "texts": ["Who makes music?"], "embedding_types": ["float"],
    }  # fmt: skip
    texts: list[str]
    model: str | None = None
    input_type: Literal["search_query", "search_document", "classification", "clustering"] | None = None
    embedding_types: Annotated[list[Kind], Field(min_length=1)] | None = None
    truncate: Literal["NONE", "START", "END"] | None = "END"
    output_dimension: int | None = None
    priority: Ignored = None


class EmbedAnswer(BaseModel):
    """The vectors of each type that was asked for, in the order of the texts.

    int8 and uint8 scale each vector by its own largest number; binary and ubinary have a bit for each positive number.
    """

    id: str
    embeddings: dict[Kind, list[list[float]] | list[str]]
    texts: list[str]
    meta: dict[str, Any]


class CohereError(BaseModel):
    """What is wrong."""

    message: str


_ERRORS = describe_errors(CohereError, 400, 401, 404, 408, 413, 415, 422, 429, 503, 504)


def router(service: EmbeddingService) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["Cohere"])

    @post(routes, ("/v2/embed",), EmbedBody, EmbedAnswer, _ERRORS, "Texts to vectors, as Cohere's clients ask for them")
    async def _embed(http: Request, body: EmbedBody) -> Response:
        encoder = await service.versions.choose(body.model, http.headers.get(VERSION_HEADER))
        role = ROLES.get(body.input_type or "")
        request = EmbedRequest(
            body.texts,
            (encoder.version,),
            prompt_name=prompt_for(encoder, role) if role else None,
            truncate=body.truncate != "NONE",
            truncation_side="left" if body.truncate == "START" else "right",
            dimensions=body.output_dimension,
            field="texts",
        )
        result = await service.embed(request, http.receive)
        kinds = [
            b'"%b":%b' % (kind.encode(), await _written(kind, result.vectors, service.writing)) for kind in _kinds(body)
        ]
        return answer(_content(body, result, b"{%b}" % b",".join(kinds)), result)

    return routes


def _kinds(body: EmbedBody) -> list[Kind]:
    return list(dict.fromkeys(body.embedding_types or ["float"]))


def _content(body: EmbedBody, result: EmbedResult, embeddings: bytes) -> bytes:
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": result.tokens}}
    rest = orjson.dumps({"id": str(uuid.uuid4()), "texts": body.texts, "meta": meta})
    return b'{"embeddings":%b,%b' % (embeddings, rest[1:])


async def _written(kind: Kind, vectors: Vectors, writing: asyncio.Lock) -> bytes:
    """The vectors as JSON."""
    if kind == "float":
        return json_array(await json_vectors(vectors, writing))
    if kind == "base64":
        return json_array(base64_vectors(vectors))
    return orjson.dumps(quantise(kind, vectors), option=orjson.OPT_SERIALIZE_NUMPY)


def quantise(kind: Kind, vectors: Vectors) -> Any:
    """Vectors in a smaller type, an array [vectors, dimensions], or [vectors, dimensions / 8] for bits."""
    if kind in ("int8", "uint8"):
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        scaled = np.rint(vectors / np.maximum(largest, np.float32(1e-12)) * 127).astype(np.int8)
        return scaled if kind == "int8" else (scaled.astype(np.int16) + 128).astype(np.uint8)
    bits = np.packbits(vectors > 0, axis=1)
    return bits if kind == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
