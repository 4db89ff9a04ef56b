"""The app that every service's HTTP begins with: keys, limits, CORS, request ids, error handlers, health, metrics."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from shared import __version__
from shared.console.routes import add_console
from shared.http.bodies import BodyLimit
from shared.http.middleware import BearerKeys, Edge
from shared.http.pages import add_documentation, add_index, describe_keys, list_routes, methods_at
from shared.http.problems import Problem, Renderer, invalid, problem_details

TITLES = {400: "Invalid request", 404: "Not found", 405: "Method not allowed"}
TITLES |= {408: "Body too slow", 413: "Body too large", 429: "Too many requests"}
NOT_FOUND = "Not Found"
"""Starlette's word for a path without a route."""
Checks = Callable[[], Awaitable[dict[str, str]]]


def create_app(
    *,
    title: str,
    description: str,
    checks: Checks,
    keys: Sequence[str],
    registry: CollectorRegistry,
    max_body_bytes: int,
    render: Renderer = problem_details,
    body_seconds: float = 60.0,
    cors_origins: Sequence[str] = (),
    has_index: bool = True,
    streamed: Sequence[str] = (),
    console: Mapping[str, str] | None = None,
    **options: Any,
) -> FastAPI:
    """An app with everything the services share; each adds its routes.

    `checks` maps each thing the service needs to "ok" or to what is wrong; `/readyz` answers 503 unless all are ok.
    A check may add to its "ok", after a semicolon, what doesn't keep the service from its work. A body must have come
    whole within `body_seconds`. `cors_origins` are the web pages from which browsers may call the service. Without
    `has_index` the service has a `/` of its own. What is posted to a path of `streamed` may have any size.
    `console` has the addresses of all services by name, for the page at `/console`; without it there is no such page.
    """
    app = FastAPI(title=title, description=description, version=__version__, docs_url=None, redoc_url=None, **options)
    if app.openapi_url:
        add_documentation(app)
        describe_keys(app, bool(keys))
    if has_index:
        add_index(app)
    if console is not None:
        add_console(app, console, bool(keys))
    app.add_middleware(BearerKeys, keys=keys, render=render)
    app.add_middleware(BodyLimit, limit=max_body_bytes, seconds=body_seconds, render=render, streamed=streamed)
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
        title, detail, headers = TITLES.get(error.status_code, "Error"), error.detail, dict(error.headers or {})
        if error.status_code == 404 and detail == NOT_FOUND:
            routes = ", ".join(f"{method} {path}" for method, path, _ in list_routes(app))
            detail = f"There is nothing at this path. There is: {routes}"
        if error.status_code == 405:
            headers["Allow"] = ", ".join(methods_at(app, request))
            detail = f"{request.method} is not allowed here: {headers['Allow']}"
        return render(request, Problem(error.status_code, title, detail, headers))


def _add_operations_routes(app: FastAPI, checks: Checks, registry: CollectorRegistry) -> None:
    @app.get("/livez", tags=["operations"], summary="The process answers")
    async def _live() -> dict[str, str]:
        return {"status": "alive"}

    down: dict[int | str, dict[str, Any]] = {503: {"description": "It can't; the checks say why"}}

    @app.get("/readyz", tags=["operations"], summary="The service can do its work; names what is down", responses=down)
    async def _ready() -> JSONResponse:
        states = await checks()
        ready = all(state.partition(";")[0] == "ok" for state in states.values())
        body = {"status": "ready" if ready else "not ready", "checks": states}
        return JSONResponse(body, 200 if ready else 503, None if ready else {"Retry-After": "2"})

    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/metrics", tags=["operations"], summary="Prometheus metrics", response_class=Response, responses=text)
    async def _metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
