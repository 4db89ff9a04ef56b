"""What every request passes on its way in: its id and metrics, the bearer key."""

import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.pages import ASSETS
from shared.http.paths import CONSOLE, CONSOLE_API
from shared.http.problems import Problem, Renderer
from shared.logs import log_context

log = logging.getLogger(__name__)

OPEN_ROUTES = frozenset({"/livez", "/readyz", "/health", "/ping", "/metrics", "/docs", "/openapi.json", *ASSETS})
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


def is_open(path: str) -> bool:
    """Whether a path answers without a key."""
    is_page = path == CONSOLE or path.startswith(f"{CONSOLE}/")
    return path in OPEN_ROUTES or (is_page and not path.startswith(CONSOLE_API))


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
        if scope["type"] != "http" or not self._keys or is_open(scope["path"]):
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
    """Give every request an id (the caller's `X-Request-ID`, if sane), count and time it; answer 500 to our bugs.

    HEAD is answered as GET, without the body.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, render: Renderer) -> None:
        self._app, self._render, self._metrics = app, render, HttpMetrics(registry)
        ProcessCollector(registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        header = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = header if REQUEST_ID.match(header) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        method, began, status = scope["method"], time.perf_counter(), 0
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # a copy: the server's own still says that no body goes out

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with log_context(request_id=request_id):
            try:
                await self._app(scope, receive, _head_only(send_with_id) if method == "HEAD" else send_with_id)
            except Exception:
                # The traceback goes to the log; the caller gets no internals.
                log.exception("request %s %s %s failed", request_id, method, scope["path"])
                if status and method == "HEAD":  # its answer is whole
                    return
                if status:  # half an answer is out already: only closing the connection shows it
                    raise
                detail = f"This is our fault; the log has the details under request id {request_id}."
                await self._render(Request(scope), Problem(500, "Internal error", detail))(scope, receive, send_with_id)
            finally:
                # The route's template, not the path: ids in paths must not become label values.
                route = getattr(scope.get("route"), "path", "unmatched")
                self._metrics.requests.labels(method, route, str(status)).inc()
                self._metrics.seconds.labels(method, route).observe(time.perf_counter() - began)


def _head_only(send: Send) -> Send:
    """Ends the answer with its head, so that a stream isn't read to its end for nobody."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_head
