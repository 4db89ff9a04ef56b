"""An error for a caller, and its spelling as RFC 9457 problem details. A route of another protocol brings its own."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from shared.errors import validation_message


class Problem(Exception):
    """An error for the caller: what is wrong and what to do. `extra` members join the problem details."""

    def __init__(
        self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail
        self.headers, self.extra = dict(headers or {}), extra


Renderer = Callable[[Request, Problem], Response]


def problem_details(_request: Request, problem: Problem) -> Response:
    """RFC 9457: `application/problem+json`."""
    body = {"type": "about:blank", "title": problem.title, "status": problem.status, "detail": problem.detail}
    return JSONResponse(body | problem.extra, problem.status, problem.headers, media_type="application/problem+json")


def invalid(error: RequestValidationError) -> Problem:
    """Names every wrong field. The values are left out: they may be huge, private or not even encodable."""
    errors = []
    for one in error.errors():
        if one["type"] == "json_invalid":  # some have no other fields
            field, message = "", f"the body is not valid JSON: {one['ctx']['error']}"
        else:
            field = ".".join(str(part) for part in one["loc"] if part != "body")
            message = validation_message(one)
        errors.append({"field": field or "body", "message": message})
    status = 400 if error.errors() and error.errors()[0]["type"] == "json_invalid" else 422
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors[:5])
    return Problem(status, "Invalid request", detail, errors=errors[:50])
