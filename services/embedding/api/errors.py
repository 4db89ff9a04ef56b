"""From errors to HTTP: one table of statuses, and the shape of an error in each of the three protocols."""

from typing import NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from services.embedding.serving import errors
from shared.http.problems import Problem, problem_details

TEI_ROUTES = frozenset(
    {"/", "/embed", "/similarity", "/tokenize", "/decode", "/invocations", "/info", "/health", "/ping"}
)
OPENAI_ROUTES = frozenset({"/embeddings", "/models"})
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a caller who left: nobody reads it, but logs and metrics tell it from an error of ours."""

STATUSES: dict[type[errors.EmbeddingError], tuple[int, str]] = {
    errors.EmptyInput: (400, "Empty input"),
    errors.TooManyInputs: (422, "Too many inputs"),
    errors.InputTooLong: (422, "Input too long"),
    errors.UnknownPrompt: (422, "Unknown prompt"),
    errors.WrongDimensions: (422, "Wrong dimensions"),
    errors.UnknownToken: (422, "Unknown token"),
    errors.VersionNotServed: (404, "No such version"),
    errors.Overloaded: (429, "Overloaded"),
    errors.EncodingFailed: (500, "Encoding failed"),
    errors.NotReady: (503, "Not ready"),
    errors.DeadlineExceeded: (504, "Too late"),
}
"""Status and title of each error of the embedding core."""


class _Names(NamedTuple):
    """What the protocols call a status."""

    tei_type: str = "Validation"
    openai_type: str = "invalid_request_error"
    openai_code: str | None = None


_NAMES: dict[int, _Names] = {
    401: _Names(openai_type="authentication_error", openai_code="invalid_api_key"),
    404: _Names(openai_code="not_found"),
    413: _Names(openai_code="request_too_large"),
    429: _Names("Overloaded", "rate_limit_error", "rate_limit_exceeded"),
    500: _Names("Backend", "server_error"),
    503: _Names("Unhealthy", "server_error"),
    504: _Names("Backend", "server_error"),
}


def add_error_handlers(app: FastAPI) -> None:
    """Answer for the core's errors, and for callers who left."""

    @app.exception_handler(errors.EmbeddingError)
    async def _embedding_error(request: Request, error: errors.EmbeddingError) -> Response:
        status, title = STATUSES[type(error)]
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return render(request, Problem(status, title, str(error), headers, code=error.code, param=error.field))

    @app.exception_handler(errors.CallerLeft)
    @app.exception_handler(ClientDisconnect)
    async def _left(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def render(request: Request, problem: Problem) -> Response:
    """`problem` in the words of the protocol that the path belongs to."""
    path = request.url.path
    if path in TEI_ROUTES:
        return _tei(problem)
    if path in OPENAI_ROUTES or path.startswith("/v1/"):
        return _openai(problem)
    return problem_details(request, problem)


def _tei(problem: Problem) -> Response:
    """text-embeddings-inference: `{"error", "error_type"}`."""
    is_empty = problem.extra.get("code") == errors.EmptyInput.code
    error_type = "Empty" if is_empty else _NAMES.get(problem.status, _Names()).tei_type
    return JSONResponse({"error": problem.detail, "error_type": error_type}, problem.status, problem.headers)


def _openai(problem: Problem) -> Response:
    """OpenAI: `{"error": {"message", "type", "param", "code"}}`, and 400 for every invalid field."""
    status = 400 if problem.status == 422 else problem.status
    names = _NAMES.get(status, _Names())
    error = {
        "message": problem.detail,
        "type": names.openai_type,
        "param": problem.extra.get("param") or _first_field(problem),
        "code": problem.extra.get("code") or names.openai_code,
    }
    return JSONResponse({"error": error}, status, problem.headers)


def _first_field(problem: Problem) -> str | None:
    """The first wrong field of a validation error."""
    fields = problem.extra.get("errors") or [{}]
    field = fields[0].get("field")
    return field if isinstance(field, str) and field != "body" else None
