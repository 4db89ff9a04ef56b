"""Bounds on a request's head and on slow clients, over raw connections."""

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from shared.http.app import create_app
from shared.http.protocol import MAX_HEAD_BYTES, BoundedProtocol
from shared.http.server import Server, listen
from tests.shared.conftest import wait_until


class Question(BaseModel):
    """A body."""

    text: str


async def checks() -> dict[str, str]:
    return {}


def start(app: FastAPI) -> tuple[int, threading.Thread, object]:
    listener = listen("127.0.0.1", 0, "PAIRWRIGHT_EXAMPLE_PORT")
    running = Server(app, drain_s=1)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_until(lambda: running.started, "the server's start")
    return listener.getsockname()[1], thread, running


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server that waits a second for heads and bodies, with one page from which browsers may call it."""
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 1.0)
    app = create_app(
        title="Example", description="", checks=checks, keys=("one",), registry=CollectorRegistry(),
        max_body_bytes=10_000, body_seconds=1.0, cors_origins=("https://page.example",), streamed=("/file",),
    )  # fmt: skip

    @app.post("/ask")
    async def _ask(question: Question) -> dict[str, int]:
        return {"length": len(question.text)}

    @app.post("/file")
    async def _file(request: Request) -> dict[str, int]:
        return {"length": sum([len(piece) async for piece in request.stream()])}

    port, thread, running = start(app)
    yield port
    running.should_exit = True  # type: ignore[attr-defined]
    thread.join()


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    connection.settimeout(30)
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("pieces", [1, 50])
def test_a_large_head_is_refused(port: int, ends: bool, pieces: int) -> None:
    value = b"x" * (8 * MAX_HEAD_BYTES)
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: " + value + (b"\r\n\r\n" if ends else b"")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for start_ in range(0, len(head), len(head) // pieces):
            connection.sendall(head[start_ : start_ + len(head) // pieces])
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in answer
    assert str(MAX_HEAD_BYTES).encode() in answer
    assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200


def test_a_long_path_counts_too(port: int) -> None:
    answer = httpx.get(f"http://127.0.0.1:{port}/livez?{'q' * 60_000}", headers={"X-Large": "x" * 10_000})
    assert answer.status_code == 431
    assert answer.json()["status"] == 431


def test_a_head_within_the_limit_is_read_on_a_connection_that_is_kept(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(20):  # together they are more than the limit
            assert client.get("/livez", headers={"X-Large": "x" * 40_000}).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Half: "])
def test_a_head_that_does_not_come_ends_the_connection(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        assert everything(connection) == b""


def test_trickling_does_not_prolong_it(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        for _ in range(300):
            try:
                connection.sendall(b"x")
            except OSError:  # reset or broken pipe, as the kernel likes
                return
            time.sleep(0.1)
    pytest.fail("the connection stayed open")


def test_a_slow_body_is_408(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /ask HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"text": "'
        )
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"within 1 s" in answer


HEAD_OF_FILE = b"POST /file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\nConnection: close\r\n"


def test_a_streamed_body_may_be_larger_and_take_longer(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HEAD_OF_FILE + b"Content-Length: 60000\r\n\r\n")
        for _ in range(4):
            time.sleep(0.4)
            connection.sendall(b"x" * 15_000)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"length":60000}')


def test_a_streamed_body_that_stalls_is_408(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HEAD_OF_FILE + b"Content-Length: 60000\r\n\r\nx")
        stalled = everything(connection)
    assert stalled.startswith(b"HTTP/1.1 408 ")
    assert b"A piece of the body must come within 1 s" in stalled


def test_browsers_of_one_page_only(port: int) -> None:
    asks = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type"}  # fmt: skip
    url = f"http://127.0.0.1:{port}/ask"
    allowed = httpx.options(url, headers=asks)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    other = httpx.options(url, headers=asks | {"Origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers
    answer = httpx.post(url, json={"text": "a"}, headers={"Origin": "https://page.example"})
    assert answer.status_code == 401, "being allowed to ask is not being allowed in"
    assert answer.headers["access-control-allow-origin"] == "https://page.example"


def test_no_page_by_default() -> None:
    app = create_app(
        title="Example", description="", checks=checks, keys=(), registry=CollectorRegistry(), max_body_bytes=10_000
    )
    port, thread, running = start(app)
    answer = httpx.get(f"http://127.0.0.1:{port}/livez", headers={"Origin": "https://page.example"})
    running.should_exit = True  # type: ignore[attr-defined]
    thread.join()
    assert not [name for name in answer.headers if name.startswith("access-control-")]
