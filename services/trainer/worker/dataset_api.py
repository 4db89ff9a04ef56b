"""What the routes on the dataset share: when they answer, and the problem of who may not or can't be answered."""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from services.trainer.worker.parts import Parts
from shared.errors import first_line
from shared.http.problems import Problem

LOOPBACK = ("127.0.0.1", "::1", "localhost")
TITLE = "The dataset is not available"
DESCRIPTIONS = {
    401: "No known key",
    403: "This caller may not",
    404: "There is no such thing",
    409: "It can't be done now",
    422: "Invalid request",
    500: "It failed; the detail says why",
    503: "This trainer can't answer now",
}


class ProblemDetails(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def problem_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route's errors."""
    content = {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}}
    return {status: {"description": DESCRIPTIONS[status], "content": content} for status in statuses}


class DatasetApi:
    """The parts of the trainer that answer while it works on the dataset."""

    def __init__(self, host: str, has_keys: bool) -> None:
        self._parts: Parts | None = None
        self._has_keys, self._is_safe = has_keys, has_keys or host in LOOPBACK

    @contextlib.contextmanager
    def answered_by(self, parts: Parts) -> Iterator[None]:
        """Answer with these parts until the block ends."""
        self._parts = parts
        try:
            yield
        finally:
            self._parts = None

    def check_no_web_page(self, request: Request) -> None:
        """Raises `Problem`: without keys, a page in a local browser could post here too; it can't hide its origin."""
        if not self._has_keys and "origin" in request.headers:
            raise Problem(403, "Forbidden", "Without keys, no web page may do this. Set PAIRWRIGHT_API_KEYS.")

    @contextlib.contextmanager
    def parts(self) -> Iterator[Parts]:
        """What answers a request; an error of the dataset's file in the block is a problem too. Raises `Problem`."""
        if not self._is_safe:
            detail = "Set PAIRWRIGHT_API_KEYS: without a key, the dataset is read and changed over loopback only."
            raise Problem(403, "Forbidden", detail)
        if self._parts is None:
            detail = "This trainer waits for another one that works on the dataset: ask that one."
            raise Problem(503, TITLE, detail, {"Retry-After": "5"})
        try:
            yield self._parts
        except (sqlite3.Error, OSError) as error:
            detail = f"{first_line(error)}; what was deleted before stays so. Ask again."
            raise Problem(503, TITLE, detail, {"Retry-After": "5"}) from None
