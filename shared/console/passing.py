"""The pass-through: the page's requests, if they are on the list, to one of the three services; none is held whole."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from shared.http.problems import Problem
from shared.settings import PREFIX

ID = r"[A-Za-z0-9._-]{1,200}"
OPERATIONS = ("GET readyz", "GET metrics")
ROUTES: Mapping[str, tuple[str, ...]] = {
    "generation": (
        *OPERATIONS,
        "GET tasks",
        "POST generate",
        "GET jobs",
        "GET jobs/ID",
        "DELETE jobs/ID",
        "POST jobs/ID/resume",
        "GET jobs/ID/pairs",
        "GET jobs/ID/rejected",
        "GET jobs/ID/events",
        "GET documents",
        "POST documents",
        "POST documents/files",
        "DELETE documents",
        "POST sentences",
        "POST rerank",
    ),
    "embedding": (
        *OPERATIONS,
        "POST embed",
        "POST similarity",
        "POST rerank",
        "POST compare",
        "GET info",
        "GET versions",
        "GET versions/ID",
        "POST versions/reload",
        "POST versions/ID/activate",
        "POST versions/ID/pin",
        "DELETE versions/pin",
    ),
    "trainer": (
        *OPERATIONS,
        "GET documents",
        "DELETE documents",
        "GET passages",
        "GET pairs",
        "GET pairs/summary",
        "PATCH pairs/ID",
        "DELETE pairs/ID",
        "GET rounds",
        "POST rounds",
        "GET rounds/ID",
        "GET versions/ID/report",
        "GET versions/ID/report/ID",
        "GET texts",
        "GET map",
    ),
}
"""What is passed on, by service: method and path."""
PATTERNS = {
    service: [re.compile(re.escape(route).replace("\\ ", " ").replace("ID", ID)) for route in routes]
    for service, routes in ROUTES.items()
}
SENT = (
    "content-type", "accept", "authorization", "prefer", "idempotency-key", "last-event-id", "x-request-id",
    "x-pairwright-version",
)  # fmt: skip
ANSWERED = (
    "content-type", "content-disposition", "content-security-policy", "location", "retry-after", "x-pairwright-version",
)  # fmt: skip
"""Headers that pass; a page's origin and cookies do not."""
ADMIN_KEY = "x-pairwright-admin-key"
"""The page's second key: what changes the versions that are served may need one of its own."""
NOTHING_RUNS = "default-src 'none'; sandbox"
CONNECT_S = 5.0


class PassThrough:
    """Passes requests on to `services`, their addresses by name. Its connections last as long as the process."""

    def __init__(self, services: Mapping[str, str]) -> None:
        self._services = services
        timeout, limits = httpx.Timeout(None, connect=CONNECT_S), httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False)

    async def send(self, request: Request, service: str, path: str) -> Response:
        """The service's own answer, as it comes. Raises `Problem` 404 off the list, 503 when nobody answers."""
        if not is_allowed(service, request.method, path):
            detail = f"The console passes no {request.method} {path[:80]!r} on to {service[:40]!r}."
            raise Problem(404, "Not found", detail)
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        sent = self._client.build_request(
            request.method,
            f"{self._services[service].rstrip('/')}/{path}",
            params=httpx.QueryParams(request.url.query),
            headers=_headers(request, service),
            content=request.stream() if has_body else None,
        )
        try:
            answer = await self._client.send(sent, stream=True)
        except httpx.HTTPError as error:
            detail = f"The {service} service doesn't answer at {self._services[service]} ({type(error).__name__})."
            todo = f"Is it running, and {PREFIX}{service.upper()}_URL right?"
            title = f"{service} unavailable".capitalize()
            raise Problem(503, title, f"{detail} {todo}", {"Retry-After": "2"}) from None
        headers = {name: value for name in ANSWERED if (value := answer.headers.get(name)) is not None}
        headers.setdefault("content-security-policy", NOTHING_RUNS)
        return StreamingResponse(_body(answer), answer.status_code, {**headers, "x-content-type-options": "nosniff"})


def is_allowed(service: str, method: str, path: str) -> bool:
    """Whether a request is on the list."""
    is_plain = not set(path.split("/")) & {"", ".", ".."}
    return is_plain and any(pattern.fullmatch(f"{method} {path}") for pattern in PATTERNS.get(service, ()))


def _headers(request: Request, service: str) -> dict[str, Any]:
    headers = {name: value for name in SENT if (value := request.headers.get(name)) is not None}
    if service == "embedding" and (key := request.headers.get(ADMIN_KEY)):
        headers["authorization"] = f"Bearer {key}"
    return headers | {"accept-encoding": "identity"}


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
