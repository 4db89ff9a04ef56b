"""The page's files and the pass-through, over real connections: what passes, what doesn't, and for whom."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry

from shared.console.passing import is_allowed
from shared.console.routes import FOLDER
from shared.http.app import create_app
from tests.shared.conftest import ServeApp

NOWHERE = "http://127.0.0.1:9"
LIMIT = 10_000


def make_app(keys: tuple[str, ...] = (), console: dict[str, str] | None = None) -> FastAPI:
    async def checks() -> dict[str, str]:
        return {"queue": "ok"}

    app = create_app(
        title="Example", description="", checks=checks, keys=keys, registry=CollectorRegistry(),
        max_body_bytes=LIMIT, streamed=("/documents",), console=console,
    )  # fmt: skip

    @app.get("/jobs")
    async def _echo(request: Request) -> JSONResponse:
        return JSONResponse({"headers": dict(request.headers), "query": str(request.query_params)})

    @app.get("/jobs/{job}/events")
    async def _events(job: str) -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            yield b"event: progress\ndata: 1\n\n"
            await told.wait()
            yield b"event: done\ndata: 2\n\n"

        told = asyncio.Event()
        app.state.go_on = lambda: app.state.loop.call_soon_threadsafe(told.set)
        app.state.loop = asyncio.get_running_loop()
        return StreamingResponse(events(), media_type="text/event-stream")

    @app.post("/documents")
    async def _count(request: Request) -> dict[str, int]:
        return {"bytes": sum([len(piece) async for piece in request.stream()])}

    @app.post("/generate")
    async def _held(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    return app


def addresses(generation: str = NOWHERE) -> dict[str, str]:
    return {"generation": generation, "embedding": NOWHERE, "trainer": NOWHERE}


@pytest.fixture
def console(serve_app: ServeApp) -> httpx.Client:
    """A console without keys, before a service without keys."""
    behind = serve_app(make_app())
    return serve_app(make_app(console=addresses(str(behind.base_url))))


def test_the_page_is_ours_alone(console: httpx.Client) -> None:
    assert console.get("/console").headers["location"] == "console/"
    answer = console.get("/console/")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]* src=)|<style| on\w+=|style=", answer.text)
    etag = {"if-none-match": answer.headers["etag"]}
    assert console.get("/console/", headers=etag).status_code == 304
    for file in ["app.js", "screens/start.js", "style.css", "vendor/uplot.js"]:
        assert console.get(f"/console/{file}").content == (FOLDER / file).read_bytes()


@pytest.mark.parametrize("path", ["../routes.py", "%2e%2e/routes.py", "..%2f..%2fsettings.py", "nothing.js"])
def test_nothing_else_is_a_file_of_the_page(console: httpx.Client, path: str) -> None:
    assert console.get(f"/console/{path}").status_code == 404


def test_what_is_on_the_list_passes_with_its_headers_and_nothing_more(console: httpx.Client) -> None:
    sent = {
        "Authorization": "Bearer one", "Cookie": "a=b", "X-Real-IP": "1.2.3.4", "Origin": str(console.base_url),
        "Last-Event-ID": "7", "X-Pairwright-Admin-Key": "two",
    }  # fmt: skip
    answer = console.get("/console/api/generation/jobs", params={"limit": "2"}, headers=sent)
    assert answer.status_code == 200, answer.text
    seen = answer.json()["headers"]
    assert answer.json()["query"] == "limit=2"
    assert seen["authorization"] == "Bearer one"
    assert seen["last-event-id"] == "7"
    assert not {"cookie", "x-real-ip", "origin", "x-pairwright-admin-key"} & set(seen)
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize(
    ("service", "method", "path"),
    [
        ("generation", "GET", "openapi.json"),
        ("generation", "DELETE", "jobs"),
        ("generation", "GET", "jobs/../metrics"),
        ("generation", "GET", "jobs/a/b"),
        ("generation", "GET", "jobs/"),
        ("generation", "GET", "jobs/.."),
        ("trainer", "PATCH", "pairs"),
        ("trainer", "DELETE", "pairs"),
        ("redis", "GET", "readyz"),
    ],
)
def test_what_is_not_on_the_list_does_not_pass(service: str, method: str, path: str) -> None:
    assert not is_allowed(service, method, path)


def test_an_answer_off_the_list_says_so(console: httpx.Client) -> None:
    answer = console.get("/console/api/generation/openapi.json")
    assert answer.status_code == 404
    assert "passes no GET 'openapi.json'" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_another_page_gets_nothing(console: httpx.Client, headers: dict[str, str]) -> None:
    answer = console.get("/console/api/generation/jobs", headers=headers)
    assert answer.status_code == 403
    assert "its own page alone" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/console/", "/console/api/generation/jobs", "/console/api/services"])
@pytest.mark.parametrize(
    ("client", "host", "is_let_in"),
    [
        ("127.0.0.1", "localhost:8001", True),
        ("127.0.0.1", "127.0.0.1:8001", True),
        ("::1", "[::1]:8001", True),
        ("10.0.0.7", "localhost:8001", False),
        ("127.0.0.1", "rebound.example", False),
        ("127.0.0.1", "[", False),
    ],
)
@pytest.mark.anyio
async def test_without_keys_loopback_alone(path: str, client: str, host: str, is_let_in: bool) -> None:
    app: Any = make_app(console=addresses())
    transport = httpx.ASGITransport(app, client=(client, 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as caller:
        answer = await caller.get(path, headers={"Host": host})
    assert (answer.status_code != 403) == is_let_in
    if not is_let_in:
        assert "PAIRWRIGHT_API_KEYS" in answer.json()["detail"]


def test_whom_a_proxy_on_this_machine_forwards_is_not_on_it(console: httpx.Client) -> None:
    assert console.get("/console/", headers={"X-Forwarded-For": "10.0.0.7"}).status_code == 403


def test_with_keys_the_page_loads_and_all_else_needs_one(serve_app: ServeApp) -> None:
    behind = serve_app(make_app(keys=("one",)))
    console = serve_app(make_app(keys=("one",), console=addresses(str(behind.base_url))))
    assert console.get("/console/").status_code == 200
    assert console.get("/console/app.js").status_code == 200
    assert console.get("/console/api/generation/jobs").status_code == 401
    assert console.get("/console/api/services").status_code == 401
    with_key = {"Authorization": "Bearer one"}
    assert console.get("/console/api/generation/jobs", headers=with_key).status_code == 200


def test_events_pass_as_they_come(serve_app: ServeApp) -> None:
    app = make_app()
    console = serve_app(make_app(console=addresses(str(serve_app(app).base_url))))
    with console.stream("GET", "/console/api/generation/jobs/a/events") as answer:
        events = answer.iter_text()
        assert "data: 1" in next(events)
        app.state.go_on()
        assert "data: 2" in next(events)


def test_large_bodies_pass_in_pieces_and_are_bounded_where_they_go(console: httpx.Client) -> None:
    size = 200 * LIMIT
    answer = console.post("/console/api/generation/documents", content=b"x" * size)
    assert answer.json() == {"bytes": size}
    answer = console.post("/console/api/generation/generate", content=b"x" * size)
    assert answer.status_code == 413


def test_a_service_that_is_away_is_named_with_its_setting(console: httpx.Client) -> None:
    answer = console.get("/console/api/trainer/rounds")
    assert answer.status_code == 503
    assert "PAIRWRIGHT_TRAINER_URL" in answer.json()["detail"]
