"""`/console`: the page's files, and its way to the three services."""

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from shared.console.callers import check_caller, check_origin
from shared.console.passing import PassThrough

FOLDER = Path(__file__).with_name("static")
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # an upgrade is seen at once; what is unchanged is answered without a body
}


def add_console(app: FastAPI, services: Mapping[str, str], has_keys: bool) -> None:
    """The routes. `services` are the addresses of all three by name; with `has_keys` the app asks for one itself."""
    files, passing = StaticFiles(directory=FOLDER, html=True), PassThrough(services)

    @app.get("/console/api/services", include_in_schema=False)
    async def _services(request: Request) -> dict[str, str]:
        check_caller(request, has_keys)
        check_origin(request)
        return dict(services)

    @app.api_route(
        "/console/api/{service}/{path:path}", methods=["GET", "POST", "PATCH", "DELETE"], include_in_schema=False
    )
    async def _pass(request: Request, service: str, path: str) -> Response:
        check_caller(request, has_keys)
        check_origin(request)
        return await passing.send(request, service, path)

    @app.get("/console", include_in_schema=False)
    async def _root() -> Response:
        # Relative, so that it holds behind a proxy's prefix too.
        return RedirectResponse("console/")

    @app.get("/console/{path:path}", include_in_schema=False)
    async def _file(request: Request, path: str) -> Response:
        check_caller(request, has_keys)
        answer = await files.get_response(path or "index.html", request.scope)
        answer.headers.update(HEADERS)
        return answer
