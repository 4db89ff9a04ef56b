"""One error, three spellings: each protocol's callers get errors in the shape that their client reads.

`code` and `param` travel in `Problem.extra`, so our own problem details carry them too.
"""

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from shared.http.problems import Problem, problem_details

TEI_ROUTES = frozenset(
    {"/", "/embed", "/similarity", "/tokenize", "/decode", "/invocations", "/info", "/health", "/ping"}
)
OPENAI_ROUTES = frozenset({"/embeddings", "/models"})

_TEI_TYPES = {"empty_input": "Empty", 429: "Overloaded", 503: "Unhealthy", 500: "Backend", 504: "Backend"}
_OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_OPENAI_CODES = {401: "invalid_api_key", 404: "not_found", 413: "request_too_large", 429: "rate_limit_exceeded"}


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
    kind = _TEI_TYPES.get(problem.extra.get("code", "")) or _TEI_TYPES.get(problem.status, "Validation")
    return JSONResponse({"error": problem.detail, "error_type": kind}, problem.status, problem.headers)


def _openai(problem: Problem) -> Response:
    """OpenAI: `{"error": {"message", "type", "param", "code"}}`, and 400 for every invalid field."""
    status = 400 if problem.status == 422 else problem.status
    error = {
        "message": problem.detail,
        "type": _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": problem.extra.get("param") or _first_field(problem),
        "code": problem.extra.get("code") or _OPENAI_CODES.get(status),
    }
    return JSONResponse({"error": error}, status, problem.headers)


def _first_field(problem: Problem) -> str | None:
    """The first wrong field of a validation error."""
    errors = problem.extra.get("errors") or [{}]
    field = errors[0].get("field")
    return field if isinstance(field, str) and field != "body" else None
