"""A file as the body of a request: its documents into the stream, or its sentences back."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.settings import GenerationSettings
from shared.queue import EmbeddedServer
from shared.settings import Settings
from tests.support.documents import waiting_documents
from tests.support.generation import live_generation

MARKDOWN = b"# Rooms\n\nThe beds are soft.\n\n## Towels\n\n- They are on the shelf by the door.\n- Take two of them.\n"


@pytest.fixture
def client(server: EmbeddedServer, dataset: str, tiny_teacher: Path) -> Iterator[httpx.Client]:
    common = Settings(teacher=str(tiny_teacher), trainer_url="http://127.0.0.1:1")
    engine = TransformersEngine(str(tiny_teacher), GenerationSettings())
    with live_generation(engine, server.url, dataset, common) as client:
        yield client


def test_a_file_becomes_documents_as_a_command_would_name_them(
    client: httpx.Client, server: EmbeddedServer, dataset: str
) -> None:
    name = "handbook/rooms.md"
    look = client.post("/documents/files", params={"name": name, "dry_run": True}, content=MARKDOWN)
    assert (look.json()["passages"], look.json()["backlog"]) == (2, 0)
    assert sum(look.json()["histogram"].values()) == 2
    told = client.post("/documents/files", params={"name": name}, content=MARKDOWN).raise_for_status().json()
    assert (told["documents"], told["unchanged"], told["backlog"]) == (1, 0, 2)
    again = client.post("/documents/files", params={"name": name}, content=MARKDOWN).raise_for_status().json()
    assert (again["documents"], again["unchanged"]) == (1, 1)
    (document,) = waiting_documents(server, dataset)
    assert (document.id, document.source) == (name, name)
    assert [passage.title for passage in document.passages] == ["Rooms", "Rooms: Towels"]


def test_a_table_has_a_document_in_each_row(client: httpx.Client) -> None:
    table = b"id;text\n1;The pool is open.\n2;\n3;The bar is closed.\n"
    stopped = client.post("/documents/files", params={"name": "rows.csv"}, content=table)
    assert stopped.status_code == 422
    assert stopped.json()["detail"].startswith("rows.csv, line 3: text is empty")
    told = client.post("/documents/files", params={"name": "rows.csv", "skip_bad": True}, content=table)
    assert (told.json()["documents"], told.json()["bad"]) == (2, 1)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.pdf", b"%PDF-no", "a.pdf: can't be read as a PDF"),
        ("a.md", b"\x00\x01", "a.md: is binary, no text"),
        ("a.json", b"[1", "is not JSON"),
        ("a.csv", b"", "a.csv has no document."),
        ("a.xlsx", b"", "query.name: must end in .txt"),
        ("../a\n.md", b"", "query.name: must be one line"),
    ],
)
def test_what_can_t_be_read_is_one_error_that_names_it(
    client: httpx.Client, name: str, content: bytes, error: str
) -> None:
    answer = client.post("/documents/files", params={"name": name}, content=content)
    assert answer.status_code == 422
    assert error in answer.json()["detail"]
    assert "/tmp" not in answer.text


@pytest.mark.parametrize(
    ("name", "content", "sentences"),
    [
        ("a.csv", b"topic,Sentence\nx,A dog runs.\ny,A cat sleeps.\nz,A dog runs.\n", ["A dog runs.", "A cat sleeps."]),
        ("a.txt", b"A dog runs.\n\nA cat sleeps.\n", ["A dog runs.", "A cat sleeps."]),
        ("a.jsonl", json.dumps({"sentence1": "A dog runs."}).encode(), ["A dog runs."]),
        ("a.md", MARKDOWN, ["The beds are soft.", "They are on the shelf by the door.", "Take two of them."]),
    ],
)
def test_sentences_of_a_file(client: httpx.Client, name: str, content: bytes, sentences: list[str]) -> None:
    found = client.post("/sentences", params={"name": name}, content=content).raise_for_status().json()
    columns = {"a.csv": ["Sentence", "topic"], "a.jsonl": ["sentence1"]}.get(name, [])
    assert found == {"sentences": sentences, "bad": 0, "errors": [], "columns": columns}
    first = client.post("/sentences", params={"name": name, "limit": 1}, content=content).json()
    assert first["sentences"] == sentences[:1]


def test_rows_without_a_sentence_are_counted_and_none_at_all_is_an_error(client: httpx.Client) -> None:
    found = client.post("/sentences", params={"name": "a.csv"}, content=b"sentence,x\nA dog runs.,1\n,2\n").json()
    assert (found["bad"], found["errors"][0]["place"]) == (1, "a.csv, line 3")
    answer = client.post("/sentences", params={"name": "a.csv"}, content=b"x,y\n1,2\n")
    assert answer.status_code == 422
    assert "has no sentence1 (nor text_a" in answer.json()["detail"]
    assert answer.json()["columns"] == ["x", "y"]
    named = client.post("/sentences", params={"name": "a.csv", "column": "y"}, content=b"x,y\n1,A dog runs.\n")
    assert named.json()["sentences"] == ["A dog runs."]


@pytest.mark.parametrize("route", ["/documents/files", "/sentences"])
def test_a_table_with_other_names_tells_its_columns_those_with_most_words_first(
    client: httpx.Client, route: str
) -> None:
    table = b"id,channel,question\n1,web,Who feeds the hens?\n2,phone,Who waters the beans?\n"
    query: dict[str, str | bool] = {"name": "a.csv"} | ({"dry_run": True} if route == "/documents/files" else {})
    refused = client.post(route, params=query, content=table)
    assert refused.status_code == 422
    columns = refused.json()["columns"]
    assert columns[0] == "question"
    assert sorted(columns) == ["channel", "id", "question"]
    named = client.post(route, params={**query, "column": columns[0]}, content=table).raise_for_status().json()
    assert named["columns"] == columns
    assert named.get("documents", len(named.get("sentences", []))) == 2
