"""What no HTTP client sends on purpose, over raw connections: offers of upgrades, odd segments, callers that stall."""

import contextlib
import gzip
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry

from shared.http import bodies
from shared.http.app import create_app
from shared.http.protocol import MAX_HEAD_BYTES, BoundedProtocol
from shared.http.server import Server, listen
from tests.shared.conftest import wait_until

LIMIT = 1_000_000
LARGE = 40_000_000
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "TLS": b"Connection: upgrade\r\nUpgrade: TLS/1.3\r\n",
    "none": b"",
}
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


class Service:
    """An app that echoes, on a port, and what it was asked for."""

    def __init__(self, keep_alive_s: float = 75.0) -> None:
        self.seen: list[str] = []
        listener = listen("127.0.0.1", 0, "PAIRWRIGHT_EXAMPLE_PORT")
        self.address = listener.getsockname()
        self._server = Server(self._app(), drain_s=1, keep_alive_s=keep_alive_s)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        wait_until(lambda: self._server.started, "the server's start")

    def _app(self) -> FastAPI:
        async def checks() -> dict[str, str]:
            return {}

        app = create_app(
            title="Example", description="", checks=checks, keys=(), registry=CollectorRegistry(), max_body_bytes=LIMIT,
            body_seconds=2.0, streamed=("/streamed",),
        )  # fmt: skip

        @app.post("/echo")
        async def _echo(request: Request) -> Response:
            body = await request.body()
            self.seen.append("echo")
            return Response(body, headers={"offered": request.headers.get("upgrade", "nothing")})

        @app.post("/streamed")
        async def _streamed(request: Request) -> Response:
            return Response(str(sum([len(piece) async for piece in request.stream()])))

        @app.get("/large")
        async def _large() -> Response:
            return Response(b"x" * LARGE)

        @app.get("/smuggled")
        async def _smuggled() -> Response:
            self.seen.append("smuggled")
            return Response(b"a second request")

        @app.get("/numbers/{number}")
        async def _number(number: int) -> dict[str, int]:
            return {"number": number}

        return app

    def connect(self) -> socket.socket:
        connection = socket.create_connection(self.address)
        connection.settimeout(30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def connections(self) -> int:
        return len(self._server.server_state.connections)

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 1.5)
    monkeypatch.setattr(BoundedProtocol, "write_seconds", 1.5)
    service = Service()
    yield service
    service.stop()


def post(body: bytes, extra: bytes = b"", chunked: bool = False) -> tuple[bytes, bytes]:
    """Head and body of a request."""
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    return b"POST /echo HTTP/1.1\r\nHost: x\r\n%b%b\r\n\r\n" % (extra, length), framed


def receive(connection: socket.socket, until: bytes = b"") -> bytes:
    """What comes until `until` has come, or until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while not (until and until in received) and (piece := connection.recv(1_000_000)):
            received += piece
    return received


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pause", [0.0, 0.2])
def test_an_offered_upgrade_is_ignored(service: Service, offer: str, chunked: bool, pause: float) -> None:
    """The body reads like a request of its own, in the head's segment or in its own."""
    head, body = post(SMUGGLED, OFFERS[offer], chunked)
    with service.connect() as connection:
        if pause:
            connection.sendall(head)
            time.sleep(pause)
            connection.sendall(body)
        else:
            connection.sendall(head + body)
        answer = receive(connection, SMUGGLED)
        connection.sendall(b"GET /numbers/7 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'{"number":7}' in receive(connection, b"}"), "the connection stays in use"
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"offered: nothing" in answer
    assert service.seen == ["echo"]


@pytest.mark.parametrize("offer", OFFERS)
def test_a_body_byte_by_byte(service: Service, offer: str) -> None:
    head, body = post(SMUGGLED, OFFERS[offer])
    with service.connect() as connection:
        for place in range(len(head + body)):
            connection.sendall((head + body)[place : place + 1])
        assert receive(connection, SMUGGLED).startswith(b"HTTP/1.1 200 ")
    assert service.seen == ["echo"]


def test_pipelined_requests_are_answered_in_order_whatever_they_offer(service: Service) -> None:
    offers = list(OFFERS.values())
    ask = b"GET /numbers/%d HTTP/1.1\r\nHost: x\r\n%b\r\n"
    with service.connect() as connection:
        connection.sendall(b"".join(ask % (number, offers[number % 4]) for number in range(2000)))
        answer = receive(connection, b'{"number":1999}')
    numbers = [int(part.split(b"}")[0]) for part in answer.split(b'{"number":')[1:]]
    assert numbers == list(range(2000))


def test_a_caller_that_leaves_is_no_error(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the request that is being answered fails, nor are those behind it answered."""
    head, body = post(b"x" * 1000)
    connection = service.connect()
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" + (head + body) * 1000)
    connection.recv(1000)
    connection.close()
    wait_until(lambda: service.connections() == 0, "the connection's end")
    time.sleep(0.5)
    assert httpx.get(f"http://127.0.0.1:{service.address[1]}/numbers/1").status_code == 200
    assert service.seen == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_few_pipelined_requests_wait_at_one_time(service: Service) -> None:
    """A megabyte of small requests behind one that isn't answered yet is left where it is: in the caller's hands."""
    head, _ = post(b"x" * 1000)
    with service.connect() as connection:
        connection.sendall(head)
        connection.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            connection.send(b"x" * 1000)
            for _ in range(2000):
                sent += connection.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        time.sleep(0.5)
        waiting = [len(protocol.pipeline) for protocol in service._server.server_state.connections]  # type: ignore[union-attr]
        assert sent > 1_000_000
        assert max(waiting) < 1000


@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_nothing_is_read_after_a_head_that_says_two_things(service: Service, head: bytes) -> None:
    with service.connect() as connection:
        connection.sendall(head + SMUGGLED)
        answer = receive(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert service.seen == []


def test_nothing_is_read_after_connection_close(service: Service) -> None:
    head, body = post(b"a", b"Connection: close\r\n")
    with service.connect() as connection:
        connection.sendall(head + body + SMUGGLED)
        assert receive(connection).count(b"HTTP/1.1") == 1
    assert service.seen == ["echo"]


@pytest.mark.parametrize("kind", ["trailer", "chunk extension"])
def test_trailers_and_chunk_extensions_are_bounded_as_heads_are(service: Service, kind: str) -> None:
    head, _ = post(b"", chunked=True)
    start = b"0\r\nX-Trailer: " if kind == "trailer" else b"1;a="
    with service.connect() as connection:
        connection.sendall(head + start + b"x" * (3 * MAX_HEAD_BYTES))
        assert receive(connection).startswith(b"HTTP/1.1 431 ")


def test_a_body_of_many_small_chunks_is_read(service: Service) -> None:
    chunks = b"a\r\n0123456789\r\n" * 50_000 + b"0\r\nX-Trailer: short\r\n\r\n"
    head, _ = post(b"", chunked=True)
    with service.connect() as connection:
        connection.sendall(head + chunks)
        answer = receive(connection, b"0123456789" * 50_000)
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"POST /echo HTT", post(b"x" * 100)[0] + b"x"])
def test_heads_and_bodies_that_stall_end_the_connection(service: Service, sent: bytes) -> None:
    with service.connect() as connection:
        connection.sendall(sent)
        receive(connection)
    wait_until(lambda: service.connections() == 0, "the connection's end")


def test_a_refused_body_that_never_ends_is_not_read_for_ever(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 20:
                connection.sendall(b"x" * 100)
                time.sleep(0.05)
            pytest.fail("it was read on")


def test_a_caller_that_reads_nothing_is_dropped(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: service.connections() == 1, "the request")
        wait_until(lambda: service.connections() == 0, "the connection's end")
        assert len(receive(connection)) < LARGE


def test_a_caller_that_reads_slowly_gets_all_of_it(service: Service) -> None:
    """It takes longer than the time limit in all, and never as long for a slice."""
    received = 0
    with service.connect() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while piece := connection.recv(2_000_000):
            received += len(piece)
            time.sleep(0.05)
    assert received > LARGE


def test_an_idle_connection_ends_after_the_keep_alive_time() -> None:
    service = Service(keep_alive_s=1.0)
    try:
        with service.connect() as connection:
            for _ in range(3):
                connection.sendall(b"GET /numbers/1 HTTP/1.1\r\nHost: x\r\n\r\n")
                receive(connection, b"}")
                time.sleep(0.3)
            began = time.monotonic()
            assert receive(connection) == b""
            assert time.monotonic() - began > 0.3
    finally:
        service.stop()


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "GZIP"])
def test_compressed_bodies_are_read(service: Service, encoding: str) -> None:
    url = f"http://127.0.0.1:{service.address[1]}/echo"
    text = b"a text, again and again. " * 1000
    body = zlib.compress(text) if encoding == "deflate" else gzip.compress(text[:10]) + gzip.compress(text[10:])
    for content in (body, iter([body[:7], body[7:]])):
        assert httpx.post(url, content=content, headers={"Content-Encoding": encoding}).content == text


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(b"x" * (LIMIT + 1), mtime=0), 413),
        ("gzip", gzip.compress(b"x" * 100_000_000, mtime=0), 413),
        ("gzip", gzip.compress(b"text", mtime=0)[:-3], 400),
        ("gzip", b"text", 400),
        ("deflate", b"text", 400),
        ("br", b"text", 415),
        ("gzip, gzip", b"text", 415),
    ],
)
def test_bodies_that_cannot_be_decompressed(service: Service, encoding: str, body: bytes, status: int) -> None:
    url = f"http://127.0.0.1:{service.address[1]}/echo"
    answer = httpx.post(url, content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == status
    assert answer.json()["status"] == status
    if status == 415:
        assert encoding in answer.json()["detail"]
        assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_bodies_of_all_callers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is within its own limit; past the sum the next ones are refused, and small requests go on."""
    monkeypatch.setattr(bodies, "LEAST_HELD_BYTES", 8 * LIMIT)
    monkeypatch.setattr(bodies, "BODIES_AT_ONCE", 8)
    service = Service()
    connections = [service.connect() for _ in range(12)]
    head, body = post(b"x" * LIMIT)
    for connection in connections:
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            connection.sendall(head + body[:-1])
    assert httpx.get(f"http://127.0.0.1:{service.address[1]}/numbers/1").status_code == 200
    for connection in connections:
        connection.settimeout(30)
        with contextlib.suppress(OSError):
            connection.sendall(body[-1:])
    answers = [receive(connection, b"\r\n\r\n")[:12] for connection in connections]
    for connection in connections:
        connection.close()
    service.stop()
    assert answers.count(b"HTTP/1.1 429") >= 3
    assert answers.count(b"HTTP/1.1 200") >= 7


def test_answers_of_all_callers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are sent, to callers that take none of it; the others are told to come again."""
    monkeypatch.setattr(bodies, "LEAST_HELD_BYTES", 3 * LARGE)
    monkeypatch.setattr(bodies, "BODIES_AT_ONCE", 1)
    service = Service()
    connections = [service.connect() for _ in range(6)]
    for connection in connections:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    answers = [connection.recv(12) for connection in connections]
    assert sorted(answers) == [b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 429"] * 3
    for connection in connections:
        connection.close()
    url = f"http://127.0.0.1:{service.address[1]}/large"
    wait_until(lambda: httpx.get(url).status_code == 200, "the room that the others left")
    service.stop()


def test_a_body_that_is_taken_as_it_comes_may_have_any_size(service: Service) -> None:
    url = f"http://127.0.0.1:{service.address[1]}/streamed"
    body = b"x" * (5 * LIMIT)
    assert httpx.post(url, content=body).text == str(len(body))
    packed = httpx.post(url, content=gzip.compress(body), headers={"Content-Encoding": "gzip"})
    assert packed.text == str(len(body))
    assert httpx.post(url, content=b"no gzip", headers={"Content-Encoding": "gzip"}).status_code == 400


def test_each_piece_of_such_a_body_must_come_in_time_and_not_the_whole(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /streamed HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        for _ in range(4):
            time.sleep(0.7)
            connection.sendall(b"x")
        connection.sendall(b"x")
        assert b"200 OK" in receive(connection, until=b"\r\n\r\n")
        connection.sendall(b"POST /streamed HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nx")
        assert b"408" in receive(connection, until=b"within 2 s")
