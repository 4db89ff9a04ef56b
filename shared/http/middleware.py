"""What every request passes on its way in: its id and metrics, the body's bounds, the bearer key."""

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.problems import Problem, Renderer
from shared.logs import log_context

log = logging.getLogger(__name__)

OPEN_ROUTES = frozenset({"/livez", "/readyz", "/health", "/ping", "/metrics", "/docs", "/openapi.json"})
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class BodyLimit:
    """Refuse a body of more than `limit` bytes, announced or in chunks, and one that isn't whole after `seconds`.

    Starlette's own `RequestBodyLimitMiddleware` always answers an announced length in plain text.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float, render: Renderer) -> None:
        self._app, self._limit, self._seconds, self._render = app, limit, seconds, render
        self._detail = f"The body may have at most {limit} bytes: send less at a time."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if int(announced) > self._limit:  # the server has checked that it is a number
            problem = Problem(413, "Body too large", self._detail)
            return await self._render(Request(scope), problem)(scope, receive, send)
        received, whole, deadline = 0, False, asyncio.get_running_loop().time() + self._seconds

        async def receive_within_limit() -> Message:
            nonlocal received, whole
            if whole:  # what comes now is the caller's leaving
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                detail = f"The body must have come whole within {self._seconds:g} s."
                raise HTTPException(408, detail, {"Connection": "close"}) from None
            whole = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, self._detail)  # FastAPI lets no other exception through from reading a body
            return message

        await self._app(scope, receive_within_limit, send)


class KeySet:
    """API keys, kept as digests and compared in constant time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __contains__(self, key: str) -> bool:
        digest = hashlib.sha256(key.encode()).digest()
        # A sum: every key is compared, so that the time says nothing about which one was near.
        return sum(hmac.compare_digest(digest, own) for own in self._digests) > 0


class BearerKeys:
    """Ask for `Authorization: Bearer KEY` on every route but health and documentation, if there are keys."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], render: Renderer) -> None:
        self._app, self._keys, self._render = app, KeySet(keys), render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys or scope["path"] in OPEN_ROUTES:
            return await self._app(scope, receive, send)
        request = Request(scope)
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and key.strip() in self._keys:
            return await self._app(scope, receive, send)
        detail = "Send a known key as 'Authorization: Bearer KEY'."
        problem = Problem(401, "Unauthorized", detail, {"WWW-Authenticate": "Bearer"})
        await self._render(request, problem)(scope, receive, send)


class HttpMetrics:
    """What both HTTP services count of their requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels, text = ("method", "route", "status"), "Time to the end of the answer."
        self.requests = Counter("pairwright_http_requests", "Requests answered.", labels, registry=registry)
        self.seconds = Histogram("pairwright_http_request_seconds", text, labels[:2], registry=registry)


class Edge:
    """Give every request an id (the caller's `X-Request-ID`, if sane), count and time it; answer 500 to our bugs."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, render: Renderer) -> None:
        self._app, self._render, self._metrics = app, render, HttpMetrics(registry)
        ProcessCollector(registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        header = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = header if REQUEST_ID.match(header) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with log_context(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                # The traceback goes to the log; the caller gets no internals.
                log.exception("request %s %s %s failed", request_id, scope["method"], scope["path"])
                if status:  # half an answer is out already: only closing the connection shows it
                    raise
                detail = f"This is our fault; the log has the details under request id {request_id}."
                await self._render(Request(scope), Problem(500, "Internal error", detail))(scope, receive, send_with_id)
            finally:
                # The route's template, not the path: ids in paths must not become label values.
                route = getattr(scope.get("route"), "path", "unmatched")
                self._metrics.requests.labels(scope["method"], route, str(status)).inc()
                self._metrics.seconds.labels(scope["method"], route).observe(time.perf_counter() - began)
