"""The process and its edges: signals, ports, settings, overload, callers who leave."""

import signal
import socket
import threading
from pathlib import Path

import httpx
import pytest
from sentence_transformers import SentenceTransformer

from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.embedding import LOG, Gatekeeper, LiveService, is_ready, spawn
from tests.support.ports import free_port
from tests.support.versions import publish


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight(tmp_path: Path, store: ModelStore, static_one: SentenceTransformer) -> None:
    publish(store, static_one, 0)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = spawn(tmp_path, port)

    LiveService.wait_until(lambda: is_ready(url), "the process is ready")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        # Half a request is in flight when the signal comes; its second half follows.
        body = b'{"inputs": "a dog"}'
        connection.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body[:5]))
        LiveService.wait_until(lambda: httpx.get(url + "/livez").status_code == 200, "the first half has arrived")
        process.send_signal(signal.SIGTERM)
        LiveService.wait_until(lambda: not is_ready(url), "no new connection is taken")
        connection.sendall(body[5:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert process.wait(30) == 0
    lines = (tmp_path / LOG).read_text().splitlines()
    assert lines
    assert [line for line in lines if " INFO services.embedding" not in line] == []


def test_an_occupied_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        process = spawn(tmp_path, occupied.getsockname()[1])
        assert process.wait(60) == 1
    errors = (tmp_path / LOG).read_text()
    assert errors.count("\n") == 1
    assert "PAIRWRIGHT_EMBEDDING_PORT" in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"), [("PAIRWRIGHT_EMBEDDING_POLL_SECONDS", "0"), ("PAIRWRIGHT_EMBEDDING_MAX_BATCH_TOKENS", "x")]
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, variable: str, value: str) -> None:
    process = spawn(tmp_path, 1, **{variable: value})
    assert process.wait(60) == 1
    errors = (tmp_path / LOG).read_text()
    assert errors.count("\n") == 1
    assert variable in errors


def test_overload_is_told_at_once_and_passes(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    publish(store, static_one, 0)
    gate = Gatekeeper()
    service = start(load=gate.load, max_client_inputs=4, max_queue_inputs=4)
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(service.url + "/embed", json={"inputs": ["a dog", "a cat", "a man"]}, timeout=60))

    gate.shut()
    first = threading.Thread(target=ask)
    first.start()
    gate.entered.wait()
    for path, field in (("/embed", "inputs"), ("/v1/embeddings", "input")):
        refused = httpx.post(service.url + path, json={field: ["a", "b"]})
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        body = refused.json()
        assert body.get("error_type") == "Overloaded" or body["error"]["type"] == "rate_limit_error"
    gate.opened.set()
    first.join()
    assert answers[0].status_code == 200
    assert httpx.post(service.url + "/embed", json={"inputs": ["a", "b"]}).status_code == 200
    assert service.metric("refused_total") == 2


def test_a_caller_who_leaves_is_forgotten(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    publish(store, static_one, 0)
    gate = Gatekeeper()
    service = start(load=gate.load)
    gate.shut()
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        body = b'{"inputs": ["a dog", "a cat"]}'
        connection.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        gate.entered.wait()
        assert service.metric("queued_inputs") == 2
    service.wait_until(lambda: service.metric("queued_inputs") == 0, "the leaving is noticed before the work is done")
    assert service.metric("abandoned_total") == 1
    gate.opened.set()
    assert httpx.post(service.url + "/embed", json={"inputs": ["a dog"]}).status_code == 200


def test_openapi_describes_the_bodies(service: LiveService) -> None:
    paths = httpx.get(service.url + "/openapi.json").json()["paths"]
    for path, field in (("/embed", "inputs"), ("/v1/embeddings", "input")):
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["properties"][field]["anyOf"][0] == {"type": "string"}
        assert schema["required"] == [field]


def test_a_request_past_its_deadline_is_given_up(
    store: ModelStore, static_one: SentenceTransformer, start: Start
) -> None:
    publish(store, static_one, 0)
    gate = Gatekeeper()
    service = start(load=gate.load, request_seconds=0.3)
    gate.shut()
    for path, field in (("/embed", "inputs"), ("/v1/embeddings", "input")):
        answer = httpx.post(service.url + path, json={field: ["a dog"]}, timeout=60)
        assert answer.status_code == 504
        assert "within 0.3 s" in answer.text
    assert service.metric("expired_total") == 2
    assert service.metric("queued_inputs") == 0
    gate.opened.set()
    assert httpx.post(service.url + "/embed", json={"inputs": ["a cat"]}).status_code == 200
