"""Memory stays bounded, with every limit at its default, whatever a crowd of callers does to the connections."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from shared.model_store import ModelStore
from tests.support.embedding import LOG, PATIENCE_S, LiveService, is_ready, spawn
from tests.support.ports import free_port
from tests.support.versions import publish, static_student

MOST_BYTES = 1_500_000_000
CALLERS = 40
LARGE = json.dumps({"inputs": ["a dog " * 200] * 2048}).encode()
LONG = json.dumps({"inputs": "a dog, a café, red " * 100_000}).encode()
BODY_LIMIT = 16 * 1024 * 1024


def request(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def send(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)


def read_nothing(connection: socket.socket) -> None:
    """Ask for megabytes and take none of them."""
    send(connection, request("/embed", LARGE))


def never_end_a_body(connection: socket.socket) -> None:
    send(connection, request("/embed", b" " * BODY_LIMIT)[:-1])


def pipeline(connection: socket.socket) -> None:
    """Ask for the next before the last is answered, and read nothing."""
    send(connection, request("/embed", b'{"inputs": "a dog"}') * 20_000)


def ask_for_tokens(connection: socket.socket) -> None:
    send(connection, request("/tokenize", LONG))


def send_endless_trailers(connection: socket.socket) -> None:
    send(
        connection, b"POST /embed HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * BODY_LIMIT
    )


def nest_lists(connection: socket.socket) -> None:
    """JSON that takes many times its size in memory."""
    send(connection, request("/embed", b'{"inputs": [' + b"[]," * 5_000_000 + b"[]]}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "misuse", [read_nothing, never_end_a_body, pipeline, ask_for_tokens, send_endless_trailers, nest_lists]
)
def test_memory_is_bounded(tmp_path: Path, misuse: Callable[[socket.socket], None]) -> None:
    publish(ModelStore(tmp_path / "models" / "default"), static_student(seed=1, dimensions=512), 0)
    port = free_port()
    url, process = f"http://127.0.0.1:{port}", spawn(tmp_path, port)
    try:
        LiveService.wait_until(lambda: is_ready(url), "the process is ready")
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CALLERS)]
        for connection in connections:
            connection.settimeout(10)
        threads = [threading.Thread(target=misuse, args=(connection,)) for connection in connections]
        for thread in threads:
            thread.start()
        most, ends_at = 0, time.monotonic() + 12
        while time.monotonic() < ends_at:
            most = max(most, psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        assert httpx.get(url + "/health", timeout=PATIENCE_S).status_code == 200
        for connection in connections:
            connection.close()
        assert httpx.post(url + "/embed", json={"inputs": "a dog"}, timeout=PATIENCE_S).status_code == 200
        print(f"{misuse.__name__}: {most / 1e6:.0f} MB")
        assert most < MOST_BYTES
        assert "Traceback" not in (tmp_path / LOG).read_text()
    finally:
        process.kill()
        process.wait()
