"""`/documents` over HTTP: a real port, queue and trainer; no engine, as none is needed."""

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.generation.api import documents as api
from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.settings import GenerationSettings
from shared.queue import EmbeddedServer
from shared.settings import Settings
from tests.support.documents import waiting_documents
from tests.support.generation import live_generation
from tests.support.ports import free_port
from tests.support.students import write_static
from tests.support.trainer import LiveTrainer

TEXTS = [f"Room {number} has a bed and a lamp." for number in range(6)]
Serve = Callable[..., httpx.Client]


def json_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def serve(server: EmbeddedServer, dataset: str, tiny_teacher: Path) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def _serve(url: str = server.url, dataset: str = dataset, trainer_url: str = "", **own: Any) -> httpx.Client:
            common = Settings(teacher=str(tiny_teacher), trainer_url=trainer_url or "http://127.0.0.1:1")
            engine = TransformersEngine(str(tiny_teacher), GenerationSettings())
            return stack.enter_context(live_generation(engine, url, dataset, common, **own))

        yield _serve


def test_lines_and_lists_of_texts_and_objects_become_documents(
    serve: Serve, server: EmbeddedServer, dataset: str
) -> None:
    client = serve()
    rows = [{"id": "a", "title": "Rooms", "text": TEXTS[0], "url": "http://x"}, TEXTS[1]]
    told = client.post("/documents", content=json_lines(rows)).raise_for_status().json()
    assert (told["documents"], told["passages"], told["unchanged"], told["errors"]) == (2, 2, 0, [])
    assert (told["tokens"]["max"], told["backlog"], len(told["first"])) == (9, 2, 2)
    again = client.post("/documents", json=[*rows, TEXTS[2]]).raise_for_status().json()
    assert (again["documents"], again["unchanged"], again["backlog"]) == (3, 2, 3)
    packed = gzip.compress(json_lines(TEXTS[:4]))
    told = client.post("/documents", content=packed, headers={"Content-Encoding": "gzip"}).raise_for_status().json()
    assert (told["documents"], told["unchanged"]) == (4, 2)
    first, *_ = documents = waiting_documents(server, dataset)
    assert (first.id, first.url, first.passages[0].content) == ("a", "http://x", f"Rooms {TEXTS[0]}")
    assert [one.passages[0].text for one in documents] == [TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[0], TEXTS[3]]


def test_a_dry_run_shows_and_keeps_nothing(serve: Serve) -> None:
    body = json_lines([TEXTS[0], TEXTS[0], {"text": " ".join(f"Room {number} is taken." for number in range(100))}])
    told = serve().post("/documents?dry_run=true&size=32&window=20", content=body).raise_for_status().json()
    assert (told["documents"], told["duplicates"], told["backlog"]) == (3, 1, 0)
    assert told["passages"] > 10
    assert told["longer_than_window"] > 5
    assert told["tokens"]["max"] <= 32


def test_a_body_larger_than_the_limit_of_others_is_taken_as_it_comes(serve: Serve) -> None:
    client = serve(max_body_bytes=1024)
    told = client.post("/documents", content=json_lines([" ".join(TEXTS)] * 200)).raise_for_status().json()
    assert (told["documents"], told["duplicates"]) == (200, 199)
    assert client.post("/generate", content=b" " * 2000).status_code == 413


def test_a_bad_line_ends_it_by_number_or_is_passed_over(serve: Serve) -> None:
    client, body = serve(), json_lines([TEXTS[0], {"title": "no text"}, TEXTS[1]]) + b"{\n"
    stopped = client.post("/documents", content=body)
    assert stopped.status_code == 422
    assert stopped.json()["detail"].startswith("line 2: has no text (nor body")
    assert (stopped.json()["documents"], stopped.json()["backlog"]) == (1, 1)
    told = client.post("/documents?skip_bad=true", content=body).raise_for_status().json()
    assert (told["documents"], told["unchanged"], told["bad"]) == (2, 1, 2)
    assert [one["place"] for one in told["errors"]] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("query", "body", "error"),
    [
        ("", b"", "The body has no document."),
        ("", b"[]", "The body has no document."),
        ("skip_bad=true", b'{"title": "x"}', "The body has no document."),
        ("", b'["a"', "the list doesn't end"),
        ("", b'"Fr\xfchst\xfcck"', "line 1: is not UTF-8"),
        ("", b'{"id": "1", "text": "a"}\n{"id": "1", "text": "b"}', "line 2: the id '1' has come before"),
        ("", b'{"text": 7}', "line 1: text: '7' is no text"),
        ("size=8", b'"a"', "size: "),
        ("size=32&overlap=17", b'"a"', "overlap must be at most half of size"),
        ("sizes=32", b'"a"', "sizes: "),
    ],
)
def test_what_is_no_document_is_a_problem(serve: Serve, query: str, body: bytes, error: str) -> None:
    answer = serve().post(f"/documents?{query}", content=body)
    assert answer.status_code == 422
    assert error in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_full_stream_is_a_429_that_says_what_was_accepted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PATIENCE_S", 0.5)
    client = serve(max_backlog=4)
    for _ in range(2):
        full = client.post("/documents", content=json_lines(TEXTS))
        assert (full.status_code, full.headers["retry-after"], full.json()["backlog"]) == (429, "10", 4)
        assert "what was accepted stays" in full.json()["detail"]
    assert client.post("/documents", json=TEXTS[:4]).raise_for_status().json()["unchanged"] == 4


def test_another_language_is_told(serve: Serve) -> None:
    german = "Das Schwimmbad ist heute leider geschlossen, weil das Wasser noch nicht warm genug ist."
    [warning] = serve().post("/documents", json=[german]).raise_for_status().json()["warnings"]
    assert "documents are in 'de'" in warning


def test_a_trainer_that_is_away_is_named(serve: Serve) -> None:
    client = serve()
    for answer in (client.get("/documents"), client.delete("/documents?id=1")):
        assert answer.status_code == 503
        assert "PAIRWRIGHT_TRAINER_URL" in answer.json()["detail"]


@pytest.mark.slow
def test_from_a_body_to_the_dataset_and_out_again(serve: Serve, own_server: EmbeddedServer, tmp_path: Path) -> None:
    port = free_port()
    write_static(tmp_path / "student")

    def start() -> LiveTrainer:
        return LiveTrainer(tmp_path / "home", own_server.url, tmp_path / "student", {"port": port})

    client = serve(own_server.url, "default", f"http://127.0.0.1:{port}")
    client.post("/documents", json=TEXTS).raise_for_status()
    trainer = start()
    trainer.wait_until(lambda: trainer.query("SELECT 1 FROM corpus WHERE documents = 6"), "six documents")
    trainer.kill()
    client.post("/documents", json=[*TEXTS, "One more."]).raise_for_status()
    trainer = start()
    try:
        trainer.wait_until(lambda: trainer.query("SELECT 1 FROM corpus WHERE documents = 7"), "a seventh")
        trainer.wait_until(lambda: client.get("/documents").status_code == 200, "its port")
        told = client.get("/documents").json()
        assert (told["documents"], told["passages"], told["first"][0]["text"]) == (7, 7, TEXTS[0])
        assert client.delete("/documents?text=bed&dry_run=true").json() == {"selected": 6}
        assert client.delete("/documents?text=bed").json() == {"deleted": 6, "pairs": 0}
        assert client.delete("/documents").status_code == 422
        assert client.delete("/documents?texts=bed").status_code == 422
        assert client.get("/documents").json()["documents"] == 1
        assert client.post("/documents", json=TEXTS).raise_for_status().json()["unchanged"] == 0
        trainer.wait_until(lambda: client.get("/documents").json()["documents"] == 7, "all again")
    finally:
        trainer.kill()
