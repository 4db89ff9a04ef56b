"""`documents add`, from files to a real stream."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.generation.commands.generate import main
from services.generation.documents.adding import add_documents
from shared.documents import Document
from shared.errors import Fatal
from shared.queue import EmbeddedServer
from shared.redis import reading_client
from shared.stream import PairStream
from tests.support.documents import waiting_documents

Add = Callable[..., dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(5):
        (notes / f"{number}.md").write_text(f"# Room {number}\n\nRoom {number} has a bed and a lamp by the window.\n")
    return notes


@pytest.fixture
def add(
    server: EmbeddedServer, dataset: str, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Add:  # fmt: skip
    """The command's summary."""
    for name, value in {"REDIS_URL": server.url, "DATASET": dataset, "TEACHER": tiny_teacher, "HOME": tmp_path}.items():
        monkeypatch.setenv(f"PAIRWRIGHT_{name}", str(value))

    def _add(*arguments: object) -> dict[str, Any]:
        asyncio.run(main(["documents", "add", *map(str, arguments)], add_documents))
        summary: dict[str, Any] = json.loads(capsys.readouterr().out)
        return summary

    return _add


def test_a_folder_is_added_once_and_what_changes_is_added_again(
    add: Add, folder: Path, server: EmbeddedServer, dataset: str
) -> None:
    summary = add(folder)
    assert (summary["documents"], summary["unchanged"], summary["passages"], summary["bad"]) == (5, 0, 5, 0)
    assert summary["tokens"] == {"min": 13, "median": 13, "p95": 13, "max": 13}
    assert summary["first"][0] == {
        "document": "notes/0.md", "title": "Room 0", "text": "Room 0 has a bed and a lamp by the window.",
    }  # fmt: skip
    documents = waiting_documents(server, dataset, are_taken=True)
    assert [one.id for one in documents] == [f"notes/{number}.md" for number in range(5)]
    assert documents[0].source == "notes/0.md"

    (folder / "2.md").write_text("Room 2 is closed.")
    (folder / "5.txt").write_text("A new one.")
    summary = add(folder)
    assert (summary["documents"], summary["unchanged"]) == (6, 4)
    assert [one.id for one in waiting_documents(server, dataset, are_taken=True)] == ["notes/2.md", "notes/5.txt"]


def test_another_size_cuts_again(add: Add, folder: Path, server: EmbeddedServer, dataset: str) -> None:
    (folder / "long.txt").write_text(" ".join(f"Room {number} has a bed." for number in range(40)))
    wide = add(folder, "--window", 100)
    assert wide["longer_than_window"] == 1
    assert wide["tokens"]["max"] == 200
    narrow = add(folder, "--size", 20)
    assert (narrow["unchanged"], narrow["tokens"]["max"] <= 20) == (5, True)
    assert len(waiting_documents(server, dataset, are_taken=True)) == 7


def test_a_dry_run_keeps_nothing_and_needs_no_redis(
    add: Add, folder: Path, monkeypatch: pytest.MonkeyPatch, server: EmbeddedServer, dataset: str
) -> None:
    monkeypatch.setenv("PAIRWRIGHT_REDIS_URL", "redis://127.0.0.1:1")
    summary = add(folder, "--dry-run")
    assert (summary["documents"], len(summary["first"])) == (5, 5)
    assert waiting_documents(server, dataset, are_taken=True) == []


def test_copies_and_near_copies_are_counted(add: Add, tmp_path: Path, server: EmbeddedServer, dataset: str) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    text = " ".join(f"word{number}" for number in range(120))
    for number in range(100):
        (copies / f"{number:02}.txt").write_text(text)
    (copies / "near.txt").write_text(f"{text} more")
    (copies / "other.txt").write_text("Something else.")
    summary = add(copies)
    counts = {name: summary[name] for name in ("documents", "passages", "duplicates", "near_duplicates")}
    assert counts == {"documents": 102, "passages": 101, "duplicates": 99, "near_duplicates": 1}
    assert len(waiting_documents(server, dataset, are_taken=True)) == 101


def test_a_bad_file_ends_it_by_name_and_what_came_before_is_added(
    add: Add, folder: Path, server: EmbeddedServer, dataset: str
) -> None:
    (folder / "2.md").write_bytes("Frühstück".encode("latin-1"))
    (folder / "3.md").write_bytes(b"\x00\x01")
    with pytest.raises(Fatal, match=r"^notes/2\.md: is not UTF-8 .*What came before it is added"):
        add(folder)
    assert [one.id for one in waiting_documents(server, dataset, are_taken=True)] == ["notes/0.md", "notes/1.md"]
    summary = add(folder, "--skip-bad")
    assert (summary["documents"], summary["unchanged"], summary["bad"]) == (3, 2, 2)
    assert summary["first_bad"].startswith("notes/2.md: is not UTF-8")
    assert [one.id for one in waiting_documents(server, dataset, are_taken=True)] == ["notes/4.md"]


def test_a_table_that_breaks_off_keeps_what_came_before(
    add: Add, folder: Path, server: EmbeddedServer, dataset: str
) -> None:
    (folder / "a.csv").write_bytes(b"id,text\n1,First.\n" + b"2,Second.\n" * 2000 + b"3,\xff\n")
    with pytest.raises(Fatal, match="is not UTF-8"):
        add(folder / "a.csv")
    assert {one.id for one in waiting_documents(server, dataset, are_taken=True)} <= {"1", "2"}


def test_one_id_for_two_texts_is_an_error(add: Add, folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"_id": "1", "text": "One."}\n{"_id": "1", "text": "Two."}\n')
    with pytest.raises(Fatal, match=r"a\.jsonl, line 2: the id '1' has come before, with another text"):
        add(folder / "a.jsonl")


def test_nothing_to_add_is_an_error(add: Add, folder: Path, tmp_path: Path) -> None:
    (folder / "empty.jsonl").write_text("")
    with pytest.raises(Fatal, match="none of 1 files holds a document; the first, has no rows"):
        add(folder / "empty.jsonl")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(Fatal, match="holds no document"):
        add(tmp_path / "nothing")


def test_another_language_than_the_teacher_s_is_told(add: Add, folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    german = "Das Schwimmbad ist heute leider geschlossen, weil das Wasser noch nicht warm genug ist."
    (folder / "a.txt").write_text(" ".join(f"{german} Zimmer {number}." for number in range(5)))
    [warning] = add(folder)["warnings"]
    assert "documents are in 'de'" in warning


def test_a_full_stream_is_waited_for(
    add: Add, folder: Path, server: EmbeddedServer, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAIRWRIGHT_GENERATION_MAX_BACKLOG", "2")

    async def _add_while_taken() -> list[Document]:
        adding = asyncio.create_task(asyncio.to_thread(add, folder))
        redis, taken = reading_client(server.url, 1), list[Document]()
        stream = PairStream(redis, dataset)
        while len(taken) < 5:
            batch = await stream.read("test", block_ms=100)
            assert await PairStream(redis, dataset).backlog() <= 2
            await stream.acknowledge(batch)
            taken += [one.document for one in batch if one.document]
        assert (await adding)["documents"] == 5
        await redis.aclose()
        return taken

    assert len(asyncio.run(_add_while_taken())) == 5


def test_redis_that_is_away_is_one_line(add: Add, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_REDIS_URL", "redis://127.0.0.1:1")
    with pytest.raises(Fatal, match="PAIRWRIGHT_REDIS_URL: Redis doesn't answer"):
        add(folder)
