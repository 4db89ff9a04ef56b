"""The edge of both HTTP services: problem details, bearer keys, limits, CORS, request ids, health, metrics, serving.

Errors on our own routes are RFC 9457 problem details. A route that speaks another protocol brings its own `Renderer`.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.logs import about
from shared.process import Fatal, LoopFactory
from shared.protocol import BoundedProtocol

log = logging.getLogger(__name__)

BODY_SECONDS = 60.0
"""A body must have come whole within this time of its head."""
OPEN_ROUTES = frozenset({"/livez", "/readyz", "/health", "/ping", "/metrics", "/docs", "/openapi.json"})
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class Problem(Exception):
    """An error for the caller: what is wrong and what to do. `extra` members join the problem details."""

    def __init__(
        self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail
        self.headers = dict(headers or {})
        self.extra = extra


Renderer = Callable[[Request, Problem], Response]
Checks = Callable[[], Awaitable[dict[str, str]]]


def problem_details(_request: Request, problem: Problem) -> Response:
    """RFC 9457: `application/problem+json`."""
    body = {"type": "about:blank", "title": problem.title, "status": problem.status, "detail": problem.detail}
    return JSONResponse(body | problem.extra, problem.status, problem.headers, media_type="application/problem+json")


def create_app(
    *,
    title: str,
    description: str,
    checks: Checks,
    keys: Sequence[str],
    registry: CollectorRegistry,
    max_body_bytes: int,
    render: Renderer = problem_details,
    body_seconds: float = BODY_SECONDS,
    cors_origins: Sequence[str] = (),
    **options: Any,
) -> FastAPI:
    """An app with everything both services share; the service adds its routes.

    `checks` names each thing the service needs and says "ok" or what is wrong; `/readyz` answers 503 unless all are ok.
    A check may add to its "ok", after a semicolon, what doesn't keep the service from its work. `cors_origins` are the
    web pages that browsers let call the service; none by default.
    """
    app = FastAPI(title=title, description=description, redoc_url=None, **options)
    app.add_middleware(BearerKeys, keys=keys, render=render)
    app.add_middleware(BodyLimit, limit=max_body_bytes, seconds=body_seconds, render=render)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # Authorization among them
            expose_headers=["*"],
        )
    app.add_middleware(Edge, registry=registry, render=render)
    _add_error_handlers(app, render)
    _add_operations_routes(app, checks, registry)
    return app


def _add_error_handlers(app: FastAPI, render: Renderer) -> None:
    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> Response:
        return render(request, problem)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return render(request, invalid(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return render(request, Problem(error.status_code, _title(error), error.detail, error.headers))


def invalid(error: RequestValidationError) -> Problem:
    """A validation error that names every wrong field. The values are left out: they may be huge, private or not
    even encodable (NaN, lone surrogates)."""
    errors = []
    for fault in error.errors():
        where = [str(part) for part in fault["loc"] if part != "body"]
        if fault["type"] == "json_invalid":
            where, message = [], f"the body is not valid JSON: {fault['ctx']['error']}"
        else:
            message = fault["msg"].removeprefix("Value error, ")
        errors.append({"field": ".".join(where) or "body", "message": message})
    status = 400 if error.errors() and error.errors()[0]["type"] == "json_invalid" else 422
    detail = "; ".join(f"{fault['field']}: {fault['message']}" for fault in errors[:5])
    return Problem(status, "Invalid request", detail, errors=errors[:50])


def _title(error: HTTPException) -> str:
    return {
        400: "Invalid request",
        404: "Not found",
        405: "Method not allowed",
        408: "Body too slow",
        413: "Body too large",
    }.get(error.status_code, "Error")


def _add_operations_routes(app: FastAPI, checks: Checks, registry: CollectorRegistry) -> None:
    @app.get("/livez", tags=["operations"], summary="The process answers")
    async def _live() -> dict[str, str]:
        return {"status": "alive"}

    @app.get(
        "/readyz",
        tags=["operations"],
        summary="The service can do its work; names what is down",
        responses={503: {"description": "It can't; the checks say why"}},
    )
    async def _ready() -> JSONResponse:
        states = await checks()
        ready = all(state.partition(";")[0] == "ok" for state in states.values())
        body = {"status": "ready" if ready else "not ready", "checks": states}
        return JSONResponse(body, 200 if ready else 503, None if ready else {"Retry-After": "2"})

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def _metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class BodyLimit:
    """Refuse a body of more than `limit` bytes, whether its length is announced or it comes in chunks, and one that
    isn't whole after `seconds`.

    Starlette's own `RequestBodyLimitMiddleware` answers an announced length in plain text, whatever the app would say.
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
        received, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self._seconds

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


class BearerKeys:
    """Ask for `Authorization: Bearer KEY` on every route but health and documentation, if there are keys."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], render: Renderer) -> None:
        self._app, self._render = app, render
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._digests or scope["path"] in OPEN_ROUTES:
            return await self._app(scope, receive, send)
        request = Request(scope)
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode()).digest()
        # Every key is compared, so that the time says nothing about which one was near.
        known = [hmac.compare_digest(digest, one) for one in self._digests]
        if scheme.lower() == "bearer" and any(known):
            return await self._app(scope, receive, send)
        problem = Problem(
            401,
            "Unauthorized",
            "Send a known key as 'Authorization: Bearer KEY'.",
            {"WWW-Authenticate": "Bearer"},
        )
        await self._render(request, problem)(scope, receive, send)


class HttpMetrics:
    """What both HTTP services count of their requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "route", "status")
        self.requests = Counter("pairwright_http_requests", "Requests answered.", labels, registry=registry)
        self.seconds = Histogram(
            "pairwright_http_request_seconds", "Time to the end of the answer.", labels[:2], registry=registry
        )


class Edge:
    """Give every request an id (the caller's `X-Request-ID`, if sane), count it, time it, and answer for our bugs."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, render: Renderer) -> None:
        self._app, self._render = app, render
        metrics = HttpMetrics(registry)
        self._requests, self._seconds = metrics.requests, metrics.seconds
        ProcessCollector(registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            with about(request_id=request_id):
                await self._app(scope, receive, send_with_id)
        except Exception:
            # The traceback goes to the log; the caller gets no internals.
            with about(request_id=request_id):
                log.exception("request %s %s %s failed", request_id, scope["method"], scope["path"])
            if status:  # half an answer is out already: only closing the connection can tell
                raise
            detail = f"This is our fault; the log has the details under request id {request_id}."
            await self._render(Request(scope), Problem(500, "Internal error", detail))(scope, receive, send_with_id)
        finally:
            # The route's template, not the path: ids in paths must not become label values.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._requests.labels(scope["method"], route, str(status)).inc()
            self._seconds.labels(scope["method"], route).observe(time.perf_counter() - began)


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket, taken before anything slow is loaded. Raises `Fatal` that names `setting`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio turns Nagle's algorithm off only then, and with it each small answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise Fatal(f"can't listen on {host}:{port}: {error.strerror}. Free the port or set {setting}.") from None
    return listener


def loop_factory() -> LoopFactory | None:
    """uvicorn's choice of an event loop for `shared.process.run`: uvloop, where it is installed."""
    return uvicorn.Config("", log_config=None).get_loop_factory()


class Server(uvicorn.Server):
    """Stops on SIGTERM and SIGINT and returns. uvicorn's own would raise the signal again before our own clean-up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While serving, both signals ask for the end; a second SIGINT doesn't wait for requests in flight."""
        loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals; in another, the caller sets `should_exit`
            return
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


def server(app: ASGIApp, drain_s: float) -> Server:
    """A uvicorn server that finishes requests in flight for up to `drain_s` seconds after SIGTERM."""
    return Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(drain_s),
        )
    )
