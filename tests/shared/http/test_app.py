"""The edge of both HTTP services, over real connections: what a caller, a load balancer and Prometheus see."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, Field

from shared.errors import Fatal
from shared.http.app import create_app
from shared.http.problems import Problem
from shared.http.server import listen
from tests.shared.conftest import ServeApp

LIMIT = 10_000
Serve = Callable[..., httpx.Client]


class Question(BaseModel, extra="forbid"):
    """A body with something to get wrong."""

    text: str
    count: int = Field(1, ge=1, le=10)
    weights: list[float] = []


def add_routes(app: FastAPI) -> None:
    @app.post("/ask")
    async def _ask(question: Question) -> dict[str, int]:
        return {"length": len(question.text)}

    @app.get("/items/{item}")
    async def _item(item: int) -> dict[str, int]:
        if item == 404:
            raise Problem(409, "Conflict", "the item is locked: try later", {"Retry-After": "3"}, locked_by="another")
        return {"item": item}

    @app.get("/bug")
    async def _bug() -> None:
        raise RuntimeError("internals: hunter2")

    @app.get("/half")
    async def _half() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"the first half"
            raise RuntimeError("no second half")

        return StreamingResponse(body())


@pytest.fixture
def serve(serve_app: ServeApp) -> Serve:
    """Starts an app with some routes on a free port; gives a client of it."""

    def start(keys: tuple[str, ...] = (), states: dict[str, str] | None = None) -> httpx.Client:
        async def checks() -> dict[str, str]:
            return {"queue": "ok"} if states is None else states

        app = create_app(
            title="Example",
            description="",
            checks=checks,
            keys=keys,
            registry=CollectorRegistry(),
            max_body_bytes=LIMIT,
        )
        add_routes(app)
        return serve_app(app)

    return start


def problem(response: httpx.Response) -> dict[str, object]:
    """The problem details of an error, checked against RFC 9457's shape."""
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert isinstance(body, dict)
    assert body["type"] == "about:blank"
    assert body["status"] == response.status_code
    assert isinstance(body["title"], str)
    assert isinstance(body["detail"], str)
    return body


def test_a_wrong_body_names_every_wrong_field_and_no_value(serve: Serve) -> None:
    response = serve().post("/ask", json={"text": 5_551_234, "count": 99, "weights": [1, "heavy-hunter2"], "colour": 1})
    body = problem(response)
    assert response.status_code == 422
    assert body["errors"] == [
        {"field": "text", "message": "Input should be a valid string"},
        {"field": "count", "message": "Input should be less than or equal to 10"},
        {"field": "weights.1", "message": "Input should be a valid number, unable to parse string as a number"},
        {"field": "colour", "message": "unknown field"},
    ]
    assert "hunter2" not in response.text
    assert "5551234" not in response.text


@pytest.mark.parametrize(
    ("content", "status", "field"),
    [
        (b'{"text": ', 400, "body"),
        (b"\xff\xfe", 400, "body"),
        (b"", 422, "body"),
        (b"[]", 422, "body"),
        (b'{"text": null}', 422, "text"),
        (b'{"text": "a", "count": NaN}', 422, "count"),
        (b'{"text": "a", "count": 1e999}', 422, "count"),
        (b'{"text": "\\ud800", "count": 0}', 422, "count"),
    ],
)
def test_nasty_bodies_are_one_clear_error(serve: Serve, content: bytes, status: int, field: str) -> None:
    response = serve().post("/ask", content=content, headers={"content-type": "application/json"})
    body = problem(response)
    assert response.status_code == status
    assert field in [error["field"] for error in body["errors"]]  # type: ignore[attr-defined]


def test_json_nested_beyond_reading_is_the_caller_s_error(serve: Serve) -> None:
    response = serve().post("/ask", content=b"[" * LIMIT, headers={"content-type": "application/json"})
    assert (problem(response)["status"], problem(response)["title"]) == (400, "Invalid request")


def test_a_wrong_path_parameter_is_named(serve: Serve) -> None:
    body = problem(serve().get("/items/abc"))
    assert (body["status"], body["errors"][0]["field"]) == (422, "path.item")  # type: ignore[index]


def test_our_own_problems_carry_their_headers_and_members(serve: Serve) -> None:
    response = serve().get("/items/404")
    body = problem(response)
    assert (body["title"], body["detail"]) == ("Conflict", "the item is locked: try later")
    assert body["locked_by"] == "another"
    assert response.headers["retry-after"] == "3"


def test_unknown_paths_and_methods_name_what_there_is(serve: Serve) -> None:
    client = serve()
    assert "GET /items/{item}, GET /bug" in str(problem(client.get("/nowhere"))["detail"])
    response = client.delete("/ask")
    assert problem(response)["status"] == 405
    assert response.headers["allow"] == "POST"
    assert client.post("/items/1").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/items/1", "/half"])
def test_head_is_get_without_the_body(serve: Serve, path: str) -> None:
    client = serve()
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    if path not in ("/half", "/metrics"):
        assert head.headers["content-length"] == client.get(path).headers["content-length"]
    assert client.get("/livez").status_code == 200, "the connection is as before"


def test_the_first_page_says_what_this_is(serve: Serve) -> None:
    client = serve()
    listed = client.get("/").json()
    assert (listed["service"], listed["documentation"]) == ("Example", "/docs")
    assert {"method": "GET", "path": "/livez", "summary": "The process answers"} in listed["routes"]
    page = client.get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "<code>/items/{item}</code>" in page.text
    assert 'href="docs"' in page.text


def test_documentation_needs_no_internet_and_no_key_but_says_how_to_send_one(serve: Serve) -> None:
    client = serve(keys=("one",))
    page = client.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    for asset in ("/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/favicon.png"):
        assert asset in page
        assert len(client.get(asset).content) > 1000
    assert client.get("/docs/passwd", headers={"Authorization": "Bearer one"}).status_code == 404
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert document["security"] == [{"bearer": []}]
    assert serve().get("/openapi.json").json()["security"] == [{}, {"bearer": []}]


def test_a_bug_is_our_fault_and_its_internals_stay_in_the_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = serve().get("/bug", headers={"X-Request-ID": "ticket-7"})
    body = problem(response)
    assert body["status"] == 500
    assert "ticket-7" in str(body["detail"])
    assert "hunter2" not in response.text
    assert "RuntimeError" not in response.text
    assert "request ticket-7 GET /bug failed" in caplog.text
    assert "hunter2" in caplog.text


def test_an_answer_that_breaks_off_is_a_broken_connection(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client = serve()
    with caplog.at_level(logging.CRITICAL), pytest.raises(httpx.RemoteProtocolError):
        client.get("/half")
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize("request_id", ["abc-123", "A" * 64, "a.b_c"])
def test_a_sane_request_id_is_echoed(serve: Serve, request_id: str) -> None:
    assert serve().get("/livez", headers={"X-Request-ID": request_id}).headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "A" * 65, "two words", "a\tb", "é".encode("latin-1"), "<script>"])
def test_any_other_request_id_is_replaced(serve: Serve, request_id: str | bytes) -> None:
    answered = serve().get(
        "/livez", headers=[(b"X-Request-ID", request_id if isinstance(request_id, bytes) else request_id.encode())]
    )
    assert len(answered.headers["x-request-id"]) == 32


def chunks(total: int) -> Iterator[bytes]:
    for _ in range(0, total, 1000):
        yield b"x" * 1000


@pytest.mark.parametrize("path", ["/ask", "/nowhere"])
def test_a_body_whose_announced_length_is_too_large_is_refused(serve: Serve, path: str) -> None:
    response = serve().post(path, content=b"x" * (LIMIT + 1), headers={"content-type": "application/json"})
    body = problem(response)
    assert (body["status"], body["title"]) == (413, "Body too large")
    assert f"{LIMIT} bytes" in str(body["detail"])


def test_a_body_that_grows_too_large_in_chunks_is_refused(serve: Serve) -> None:
    response = serve().post("/ask", content=chunks(10 * LIMIT), headers={"content-type": "application/json"})
    body = problem(response)
    assert (body["status"], body["title"]) == (413, "Body too large")
    assert f"{LIMIT} bytes" in str(body["detail"])


def test_a_huge_body_is_refused_without_breaking_the_server(serve: Serve) -> None:
    client = serve()
    for content in (b"x" * 50_000_000, chunks(50_000_000)):
        response = client.post("/ask", content=content, headers={"content-type": "application/json"})
        assert problem(response)["status"] == 413
    assert client.get("/items/1").json() == {"item": 1}


def test_a_body_at_the_limit_is_read(serve: Serve) -> None:
    content = b'{"text": "' + b"x" * (LIMIT - 12) + b'"}'
    assert len(content) == LIMIT
    headers = {"content-type": "application/json"}
    client = serve()
    assert client.post("/ask", content=content, headers=headers).json() == {"length": LIMIT - 12}
    assert client.post("/ask", content=iter([content]), headers=headers).json() == {"length": LIMIT - 12}


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Basic one", "one", "Bearer one two", "Bearer é"],
)
def test_without_a_known_key_nothing_is_answered(serve: Serve, header: str | None) -> None:
    headers = [] if header is None else [(b"authorization", header.encode())]
    client = serve(keys=("one", "two"))
    for path in ("/items/1", "/nowhere", "/bug"):
        response = client.get(path, headers=headers)
        assert problem(response)["status"] == 401
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer one", "bearer two", "BEARER  one"])
def test_every_known_key_opens(serve: Serve, header: str) -> None:
    client = serve(keys=("one", "two"))
    assert client.get("/items/1", headers={"Authorization": header}).json() == {"item": 1}


def test_health_metrics_and_documentation_need_no_key(serve: Serve) -> None:
    client = serve(keys=("one",))
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_readiness_names_what_is_down(serve: Serve) -> None:
    ready = serve(states={"queue": "ok", "model": "ok"}).get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    down = serve(states={"queue": "connection refused", "model": "ok"}).get("/readyz")
    assert down.status_code == 503
    assert down.headers["retry-after"] == "2"
    assert down.json() == {"status": "not ready", "checks": {"queue": "connection refused", "model": "ok"}}


def test_metrics_count_by_route_and_never_by_path(serve: Serve) -> None:
    client = serve()
    for number in range(3):
        client.get(f"/items/{number}")
    client.get("/items/404")
    client.get("/secret-path-7")
    metrics = client.get("/metrics").text
    count = 'pairwright_http_requests_total{method="GET",route="%s",status="%s"} %.1f'
    assert count % ("/items/{item}", 200, 3) in metrics
    assert count % ("/items/{item}", 409, 1) in metrics
    assert count % ("unmatched", 404, 1) in metrics
    assert 'pairwright_http_request_seconds_count{method="GET",route="/items/{item}"} 4.0' in metrics
    assert "secret-path" not in metrics


def test_made_up_methods_do_not_become_metrics(serve: Serve) -> None:
    client = serve()
    for number in range(5):
        client.request(f"METHOD{number}", "/items/1")
    assert "METHOD" not in client.get("/metrics").text


def test_an_occupied_port_is_one_line_that_names_its_setting() -> None:
    with listen("127.0.0.1", 0, "PAIRWRIGHT_EXAMPLE_PORT") as occupied:
        port = occupied.getsockname()[1]
        with pytest.raises(Fatal) as raised:
            listen("127.0.0.1", port, "PAIRWRIGHT_EXAMPLE_PORT")
    expected = (
        f"can't listen on 127.0.0.1:{port}: Address already in use. Free the port or set PAIRWRIGHT_EXAMPLE_PORT."
    )
    assert str(raised.value) == expected


def test_an_unknown_host_is_one_line_too() -> None:
    with pytest.raises(Fatal, match=r"can't listen on no\.such\.host\.invalid:8001"):
        listen("no.such.host.invalid", 8001, "PAIRWRIGHT_EXAMPLE_HOST")
