"""Reranking: text-embeddings-inference's protocol and Cohere's, over the teacher's query likelihood."""

import asyncio
import math
import uuid
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import ClientDisconnect

from services.generation.decoding.base import EngineDead
from services.generation.reranking import InvalidText, Reranker, StudentUnavailable, TooManyTexts
from services.generation.settings import GenerationSettings
from shared.http.problems import Problem, problem_details

TEI_ROUTE = "/rerank"
COHERE_ROUTES = ("/v2/rerank", "/v1/rerank")
TEI_ERRORS = {413: "Validation", 422: "Validation", 429: "Overloaded", 500: "Backend"}
"""A status as text-embeddings-inference's `error_type`; others are "Unhealthy" from 500 on, "Validation" below."""
SCORES = {"x-pairwright-scores": "query likelihood"}
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a caller who left: nobody reads it, but logs and metrics tell it from an error of ours."""

Result = TypeVar("Result")
Ignored = Annotated[Any, Field(description="Ignored: it changes nothing here")]
Weight = Annotated[
    float,
    Field(ge=0, le=1, allow_inf_nan=False, description="Of the teacher's likelihood; the rest is the student's cosine"),
]


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"can't be written in UTF-8: it has the lone surrogate {text[error.start]!a}") from None
    return text


def _asks(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Query = Annotated[Text, AfterValidator(_asks)]
Texts = Annotated[list[Text], Field(min_length=1)]


def _plain(value: Any) -> Any:
    """Cohere's first version takes objects with a text too."""
    if not isinstance(value, list):
        return value
    return [one["text"] if isinstance(one, dict) and set(one) == {"text"} else one for one in value]


class StrictBody(BaseModel):
    """A field that would do nothing is refused, unless it is named here."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TeiBody(StrictBody):
    """`POST /rerank`. `weight` is ours."""

    query: Query
    texts: Texts
    raw_scores: bool | None = False
    return_text: bool | None = False
    truncate: bool | None = True
    truncation_direction: Literal["Right", "right"] | None = "Right"
    weight: Weight = 1.0


class CohereBody(StrictBody):
    """`POST /v2/rerank` and `/v1/rerank`. `weight` is ours; `return_documents` is of the first version."""

    query: Query
    documents: Annotated[Texts, BeforeValidator(_plain)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = False
    model: Ignored = None
    priority: Ignored = None
    weight: Weight = 1.0


class Rank(BaseModel):
    """A text's place in `texts`, and its score."""

    index: int
    score: float
    text: str | None = None


def router(reranker: Reranker, settings: GenerationSettings) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["rerank"])

    async def scored(http: Request, field: str, query: str, texts: Sequence[str], *more: Any) -> list[float]:
        if reranker.engine.state == "starting":
            raise Problem(503, "Not ready", "The teacher is being loaded. Try again shortly.", {"Retry-After": "2"})
        if len(texts) > settings.max_rerank_texts:
            raise InvalidText(field, f"there are {len(texts)}; a request may have {settings.max_rerank_texts}")
        return await _while_the_caller_waits(http, reranker.scores(query, texts, *more))

    summary = "Texts by how much likelier the teacher finds the query after each, the likeliest first"

    @routes.post(TEI_ROUTE, summary=summary, response_model=list[Rank], response_model_exclude_none=True)
    async def _tei(http: Request, response: Response, body: TeiBody) -> list[Rank]:
        truncate = body.truncate is not False
        raw = await scored(http, "texts", body.query, body.texts, body.weight, truncate)
        scores = raw if body.raw_scores else [_sigmoid(score) for score in raw]
        response.headers.update(SCORES)
        kept = body.texts if body.return_text else [None] * len(raw)
        return [Rank(index=place, score=scores[place], text=kept[place]) for place in _order(raw)]

    @routes.post(COHERE_ROUTES[1], summary=f"{summary}, as Cohere's clients ask for it", include_in_schema=False)
    @routes.post(COHERE_ROUTES[0], summary=f"{summary}, as Cohere's clients ask for it")
    async def _cohere(http: Request, body: CohereBody) -> JSONResponse:
        raw = await scored(http, "documents", body.query, body.documents, body.weight)
        results: list[dict[str, Any]] = [
            {"index": place, "relevance_score": _sigmoid(raw[place])} for place in _order(raw)[: body.top_n]
        ]
        if body.return_documents:
            results = [one | {"document": {"text": body.documents[one["index"]]}} for one in results]
        meta = {"api_version": {"version": http.url.path[2]}}
        return JSONResponse({"id": str(uuid.uuid4()), "results": results, "meta": meta}, headers=SCORES)

    return routes


def add_error_handlers(app: FastAPI) -> None:
    """Answer for the reranker's errors, and for callers who left."""

    @app.exception_handler(InvalidText)
    async def _invalid(request: Request, error: InvalidText) -> Response:
        errors = [{"field": error.field, "message": error.message}]
        return render(request, Problem(422, "Invalid request", str(error), errors=errors))

    @app.exception_handler(TooManyTexts)
    async def _busy(request: Request, error: TooManyTexts) -> Response:
        return render(request, Problem(429, "Too many requests", f"{error}. Try again later.", {"Retry-After": "2"}))

    @app.exception_handler(StudentUnavailable)
    @app.exception_handler(EngineDead)
    async def _unavailable(request: Request, error: Exception) -> Response:
        return render(request, Problem(503, "Unavailable", f"{error}. Try again shortly.", {"Retry-After": "5"}))

    @app.exception_handler(ClientDisconnect)
    async def _left(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def render(request: Request, problem: Problem) -> Response:
    """`problem` in the words of the protocol that the path belongs to."""
    path = request.url.path
    if path == TEI_ROUTE:
        kind = TEI_ERRORS.get(problem.status, "Unhealthy" if problem.status > 500 else "Validation")
        return JSONResponse({"error": problem.detail, "error_type": kind}, problem.status, problem.headers)
    if path in COHERE_ROUTES:
        return JSONResponse({"message": problem.detail}, problem.status, problem.headers)
    return problem_details(request, problem)


async def _while_the_caller_waits(http: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The work's result. Raises `ClientDisconnect`, and ends the work, once the caller has left."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(http))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _order(scores: Sequence[float]) -> list[int]:
    """Places, the highest score first; equal ones in the order in which they came."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


def _sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))
