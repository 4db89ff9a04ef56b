"""What a service says of itself: its routes, at `/` and where a path is wrong, and `/docs` without the internet."""

import html
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match

ASSETS = {
    "/docs/swagger-ui-bundle.js": "swagger-ui-bundle.js",
    "/docs/swagger-ui.css": "swagger-ui.css",
    "/docs/favicon.png": "favicon.png",
}
"""Of the documentation's page: the path, and the file in `fastapi-offline`, which ships them in its wheel."""
SCHEME = "bearer"


def list_routes(app: FastAPI) -> list[tuple[str, str, str]]:
    """Method, path and summary of every route that the documentation describes."""
    described = [route for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema]
    return [(method, route.path, route.summary or "") for route in described for method in sorted(route.methods)]


def methods_at(app: FastAPI, request: Request) -> list[str]:
    """The methods that the request's path has."""
    scope = dict(request.scope)
    found = [route for route in app.routes if route.matches(scope)[0] is not Match.NONE]
    methods = {method for route in found for method in getattr(route, "methods", None) or ()}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def index(app: FastAPI, request: Request) -> Response:
    """What this service is and its routes: a page for browsers, JSON for others."""
    routes = list_routes(app)
    if "text/html" in request.headers.get("accept", ""):
        rows = "".join(
            f"<tr><td>{method}</td><td><code>{html.escape(path)}</code></td><td>{html.escape(summary)}</td></tr>"
            for method, path, summary in routes
        )
        docs = '<p><a href="docs">Try them out</a></p>' if app.openapi_url else ""
        title, about = html.escape(app.title), html.escape(app.description)
        return HTMLResponse(
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
            f"<h1>{title} {app.version}</h1><p>{about}</p>{docs}<table>{rows}</table></html>"
        )
    described = [dict(zip(("method", "path", "summary"), route, strict=True)) for route in routes]
    docs_url = {"documentation": "/docs"} if app.openapi_url else {}
    return JSONResponse({"service": app.title, "version": app.version, **docs_url, "routes": described})


def add_index(app: FastAPI) -> None:
    """`/`, for a service that has none of its own."""

    @app.get("/", include_in_schema=False)
    async def _index(request: Request) -> Response:
        return index(app, request)


def add_documentation(app: FastAPI) -> None:
    """`/docs`, with script and style from this machine: a network without internet has documentation too."""
    folder = Path(str(files("fastapi_offline") / "static"))

    @app.get("/docs", include_in_schema=False)
    async def _docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        script, style, icon = (root + path for path in ASSETS)
        return get_swagger_ui_html(
            openapi_url=root + str(app.openapi_url), title=app.title,
            swagger_js_url=script, swagger_css_url=style, swagger_favicon_url=icon,
        )  # fmt: skip

    @app.get("/docs/{name}", include_in_schema=False)
    async def _asset(request: Request) -> FileResponse:
        if request.url.path not in ASSETS:
            raise HTTPException(404)
        return FileResponse(folder / ASSETS[request.url.path])


def describe_keys(app: FastAPI, has_keys: bool) -> None:
    """Say in the OpenAPI document how a key is sent: `/docs` shows an Authorize button."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes[SCHEME] = {"type": "http", "scheme": "bearer", "description": "Only where the service has keys."}
        document["security"] = [{SCHEME: []}] if has_keys else [{}, {SCHEME: []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
