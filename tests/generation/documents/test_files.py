"""Files of each kind as documents, and files that can't be."""

import gzip
import json
from pathlib import Path

import docx
import pytest
from pypdf import PdfWriter

from services.generation.documents.files import File, find_files, read_texts
from services.generation.documents.texts import Text
from shared.errors import Fatal
from shared.tables import BadRow
from tests.support.pdf import write_pdf

PAGE = """<html><head><title>Hotel &amp; more</title><style>p {}</style></head><body><nav>Menu</nav>
<h2>Pool</h2><p>The <b>pool</b> is closed.</p><table><tr><td>Bed</td><td>Desk</td></tr></table>
<script>let a = 1;</script><footer>Imprint</footer></body></html>"""


def read(path: Path, column: str | None = None, encoding: str | None = None) -> list[tuple[str, Text | BadRow]]:
    return list(read_texts(File(path, path.name), column, encoding))


def one(path: Path, encoding: str | None = None) -> Text:
    [(place, text)] = read(path, encoding=encoding)
    assert place == path.name
    assert isinstance(text, Text), text
    assert (text.id, text.source) == (path.name, path.name)
    return text


def problem(path: Path, encoding: str | None = None) -> str:
    [(_, text)] = read(path, encoding=encoding)
    assert isinstance(text, BadRow)
    return str(text)


def test_text_and_markdown_are_one_document_a_file(tmp_path: Path) -> None:
    for name, is_markdown in (("a.txt", False), ("b.md", True)):
        (tmp_path / name).write_text("# One\n\nTwo.\x0c\n")
        text = one(tmp_path / name)
        assert (text.text, text.is_markdown) == ("# One\n\nTwo. \n", is_markdown)
    (tmp_path / "c.txt").write_text("Zwei", encoding="utf-16")
    assert one(tmp_path / "c.txt").text == "Zwei"


def test_a_page_without_its_navigation(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    text = one(tmp_path / "a.html")
    assert (text.title, text.is_markdown) == ("Hotel & more", True)
    assert text.text.split() == ["##", "Pool", "The", "pool", "is", "closed.", "Bed", "Desk"]
    (tmp_path / "b.htm").write_bytes('<meta charset="iso-8859-1"><p>Frühstück</p>'.encode("latin-1"))
    assert one(tmp_path / "b.htm").text == "Frühstück"


def test_a_pdf_and_a_word_document(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", ["The pool is closed.", "Towels are free."], title="Hotel")
    text = one(tmp_path / "a.pdf")
    assert (text.title, text.text) == ("Hotel", "The pool is closed.\n\nTowels are free.")

    document = docx.Document()
    document.core_properties.title = "Guide"
    document.add_heading("Pool", 2)
    document.add_paragraph("The pool is closed.")
    row = document.add_table(1, 2).rows[0].cells
    row[0].text, row[1].text = "Bed", "Desk"
    document.save(str(tmp_path / "b.docx"))
    text = one(tmp_path / "b.docx")
    assert (text.title, text.text) == ("Guide", "## Pool\n\nThe pool is closed.\n\nBed | Desk")


def test_each_row_of_a_table_is_a_document(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"_id": "7", "title": "Pool", "text": "It is\nclosed.", "metadata": {}},
        {"_id": 8, "text": "b"},
        {"_id": 9},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(lines)
    for name in ("a.jsonl", "b.jsonl.gz"):
        (_, first), (_, second), (place, third) = read(tmp_path / name)
        assert first == Text("It is\nclosed.", "7", "Pool", "", name)
        assert isinstance(second, Text)
        assert second.id == "8"
        assert (place, str(third)) == (f"{name}, line 3", str(third))
        assert "has no text" in str(third)
    (tmp_path / "c.csv").write_text('id;abstract;url\n1;"two; parts";http://x\n2;;\n')
    (_, first), (_, second) = read(tmp_path / "c.csv")
    assert first == Text("two; parts", "1", "", "http://x", "c.csv")
    assert "text is empty" in str(second) or "has no text" in str(second)
    [(_, named), _] = read(tmp_path / "c.csv", column="url")
    assert isinstance(named, Text)
    assert named.text == "http://x"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.txt", "Frühstück".encode("latin-1"), "is not UTF-8 (invalid start byte): name its encoding"),
        ("a.txt", b"\x7fELF\x00\xff\xfe\x00", "is binary"),
        ("a.md", b"text\x00text", "is binary"),
        ("a.txt", b" \n ", "text is empty"),
        ("a.pdf", b"%PDF-1.7 nonsense", "can't be read as a PDF"),
        ("a.docx", b"PK nonsense", "can't be read as a Word document"),
    ],
)
def test_what_is_no_document_says_why(tmp_path: Path, name: str, content: bytes, error: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert error in problem(tmp_path / name)


def test_an_encoding_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Frühstück".encode("latin-1"))
    assert one(tmp_path / "a.txt", "latin-1").text == "Frühstück"
    assert "is unknown" in problem(tmp_path / "a.txt", "latin-99")


def test_a_title_alone_is_a_document_and_nothing_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"_id": "1", "title": "Pool", "text": ""}\n{"_id": "2", "title": "", "text": ""}'
    )
    (_, first), (_, second) = read(tmp_path / "a.jsonl")
    assert first == Text("Pool", "1", "", "", "a.jsonl")
    assert "text is empty" in str(second)


def test_a_scan_and_a_file_of_gigabytes_are_told(tmp_path: Path) -> None:
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(tmp_path / "scan.pdf")
    assert "recognise the text first" in problem(tmp_path / "scan.pdf")
    with (tmp_path / "big.txt").open("wb") as file:
        file.truncate(2 * 1024**3)  # sparse: it takes no room
    assert "has 2147483648 bytes, and a document may have 5000000 characters" in problem(tmp_path / "big.txt")
    (tmp_path / "long.txt").write_text("a " * 2_600_000)
    assert "has 5200000 characters" in problem(tmp_path / "long.txt")


def test_folders_are_searched_and_what_is_there_is_named_after_them(tmp_path: Path) -> None:
    for name in ("notes/b.md", "notes/deep/a.TXT", "notes/c.png", "notes/.git/x.md", "notes/.hidden.md", "d.csv.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    files, others = find_files([tmp_path / "notes", tmp_path / "notes" / "b.md", tmp_path / "d.csv.gz"])
    assert [file.name for file in files] == ["notes/b.md", "notes/deep/a.TXT", f"{tmp_path.name}/d.csv.gz"]
    assert others == {".png": 1}


def test_what_is_not_there_or_holds_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("")
    (tmp_path / "empty").mkdir()
    for arguments, error in (
        ([tmp_path / "empty"], "holds no document; read are .txt, .md"),
        ([tmp_path], r"holds no document \(1 files of other kinds are there\)"),
        ([tmp_path / "a.png"], "can't be read as documents"),
        ([tmp_path / "none"], "there is no file or folder"),
    ):
        with pytest.raises(Fatal, match=error):
            find_files(arguments)
