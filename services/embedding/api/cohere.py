"""Cohere's protocol: `POST /v2/embed`, with its smaller types of numbers."""

import uuid
from typing import Annotated, Any, ClassVar, Literal, Self

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, model_validator

from services.embedding.api.errors import describe_errors
from services.embedding.api.requests import Ignored, StrictBody, post
from services.embedding.api.serialization import VERSION_HEADER, Kind, answer, json_array, write_vectors
from services.embedding.serving.service import EmbeddingService, EmbedRequest, EmbedResult, InputType


class TextContent(StrictBody):
    """A part of an input. Images are refused: versions read text."""

    type: Literal["text"]
    text: str


class EmbedInput(StrictBody):
    """One text in parts, which are read as lines."""

    content: Annotated[list[TextContent], Field(min_length=1)]


class EmbedBody(StrictBody):
    """`POST /v2/embed`: `texts` or `inputs`. `input_type` chooses the version's prompt, if it has one for the type."""

    EXAMPLE: ClassVar = {
        "model": "current", "input_type": "search_query", "texts": ["Who makes music?"], "embedding_types": ["float"],
    }  # fmt: skip
    texts: list[str] | None = None
    inputs: list[EmbedInput] | None = None
    model: str | None = None
    input_type: InputType | None = None
    embedding_types: Annotated[list[Kind], Field(min_length=1)] | None = None
    truncate: Literal["NONE", "START", "END"] | None = "END"
    output_dimension: int | None = None
    priority: Ignored = None

    @model_validator(mode="after")
    def _one_kind_of_inputs(self) -> Self:
        if (self.texts is None) == (self.inputs is None):
            raise ValueError("send either `texts` or `inputs`")
        return self

    @property
    def all_texts(self) -> list[str]:
        """The texts, whichever way they came."""
        if self.texts is not None:
            return self.texts
        return ["\n".join(part.text for part in one.content) for one in self.inputs or []]


class EmbedAnswer(BaseModel):
    """The vectors of each type that was asked for, in the order of the texts."""

    response_type: Literal["embeddings_by_type"]
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
        texts = body.all_texts
        request = EmbedRequest(
            texts,
            (body.model, http.headers.get(VERSION_HEADER)),
            input_type=body.input_type,
            truncate=body.truncate != "NONE",
            truncation_side="left" if body.truncate == "START" else "right",
            dimensions=body.output_dimension,
            field="inputs" if body.texts is None else "texts",
        )
        result = await service.embed(request, http.receive)
        kinds: list[Kind] = list(dict.fromkeys(body.embedding_types or ["float"]))
        embeddings = {kind: json_array(await write_vectors(kind, result, service.writing)) for kind in kinds}
        return answer(_content(texts, result, embeddings), result)

    return routes


def _content(texts: list[str], result: EmbedResult, embeddings: dict[Kind, bytes]) -> bytes:
    written = b",".join(b'"%b":%b' % (kind.encode(), vectors) for kind, vectors in embeddings.items())
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": result.tokens}}
    about = {"response_type": "embeddings_by_type", "id": str(uuid.uuid4()), "texts": texts, "meta": meta}
    return b'{"embeddings":{%b},%b' % (written, orjson.dumps(about)[1:])
