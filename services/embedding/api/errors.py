"""From errors to HTTP: one table of statuses, and the shape of an error in each protocol."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from services.embedding.serving import errors
from shared.http.problems import Problem, problem_details

Responses = dict[int | str, dict[str, Any]]
TEI_ROUTES = frozenset(
    {"/", "/embed", "/embed_all", "/embed_sparse", "/predict", "/rerank", "/similarity", "/tokenize", "/decode"}
) | {"/invocations", "/info", "/health", "/ping"}
OPENAI_ROUTES = frozenset({"/embeddings", "/models"})
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a caller who left: nobody reads it, but logs and metrics tell it from an error of ours."""

STATUS: dict[type[errors.EmbeddingError], int] = {
    errors.EmptyInput: 400,
    errors.VersionNotServed: 404,
    errors.InvalidInput: 422,
    errors.Overloaded: 429,
    errors.EncodingFailed: 500,
    errors.NotReady: 503,
    errors.DeadlineExceeded: 504,
}
INVALID: tuple[str, str, str | None] = ("Validation", "invalid_request_error", None)
NAMES: dict[int, tuple[str, str, str | None]] = {
    401: ("Validation", "authentication_error", "invalid_api_key"),
    404: ("Validation", "invalid_request_error", "not_found"),
    413: ("Validation", "invalid_request_error", "request_too_large"),
    424: ("Backend", "invalid_request_error", None),
    429: ("Overloaded", "rate_limit_error", "rate_limit_exceeded"),
    500: ("Backend", "server_error", None),
    503: ("Unhealthy", "server_error", None),
    504: ("Backend", "server_error", None),
}
"""A status as text-embeddings-inference's `error_type`, and as OpenAI's `type` and `code`; `INVALID` for others."""
DESCRIPTIONS = {
    400: "Invalid input, or no JSON",
    401: "No known key",
    403: "This caller may not",
    404: "There is no such version",
    408: "The body came too slowly",
    409: "It can't be done now",
    413: "The body is too large",
    415: "The body's encoding can't be read",
    422: "Invalid input",
    424: "This kind of model can't do it",
    429: "Overloaded; see Retry-After",
    503: "No version is loaded yet",
    504: "The deadline has passed",
    507: "It can't be stored",
}


def describe_errors(model: type[BaseModel], *statuses: int) -> Responses:
    """What OpenAPI says of a route's errors."""
    return {status: {"description": DESCRIPTIONS[status], "model": model} for status in statuses}


class ProblemDetails(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def problem_errors(*statuses: int) -> Responses:
    """The same, of our own routes."""
    content = {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}}
    return {status: {"description": DESCRIPTIONS[status], "content": content} for status in statuses}


def add_error_handlers(app: FastAPI) -> None:
    """Answer for the core's errors, and for callers who left."""

    @app.exception_handler(errors.EmbeddingError)
    async def _embedding_error(request: Request, error: errors.EmbeddingError) -> Response:
        status = STATUS[type(error)]
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        title, extra = HTTPStatus(status).phrase, {"code": error.code, "param": error.field}
        return render(request, Problem(status, title, str(error), headers, **extra))

    @app.exception_handler(errors.CallerLeft)
    @app.exception_handler(ClientDisconnect)
    async def _left(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def render(request: Request, problem: Problem) -> Response:
    """`problem` in the words of the protocol that the path belongs to."""
    path = request.url.path
    if path in TEI_ROUTES:
        is_empty = problem.extra.get("code") == errors.EmptyInput.code
        error_type = "Empty" if is_empty else NAMES.get(problem.status, INVALID)[0]
        return JSONResponse({"error": problem.detail, "error_type": error_type}, problem.status, problem.headers)
    if path.startswith("/api/"):  # Ollama's
        return JSONResponse({"error": problem.detail}, problem.status, problem.headers)
    if path.startswith("/v2/"):  # Cohere's
        return JSONResponse({"message": problem.detail}, problem.status, problem.headers)
    if path in OPENAI_ROUTES or path.startswith("/v1/"):
        return _openai(problem)
    return problem_details(request, problem)


def _openai(problem: Problem) -> Response:
    """OpenAI: `{"error": {"message", "type", "param", "code"}}`, and 400 for every invalid field."""
    status = 400 if problem.status == 422 else problem.status
    _, error_type, code = NAMES.get(status, INVALID)
    wrong = (problem.extra.get("errors") or [{}])[0].get("field")  # of a validation error, the first
    error = {
        "message": problem.detail,
        "type": error_type,
        "param": problem.extra.get("param") or (None if wrong == "body" else wrong),
        "code": problem.extra.get("code") or code,
    }
    return JSONResponse({"error": error}, status, problem.headers)
