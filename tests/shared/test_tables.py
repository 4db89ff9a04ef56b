"""One reader for the tables that people have."""

import gzip
import re
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from shared.errors import Fatal
from shared.tables import BadRow, Row, by_folded_name, find, missing, place, read, text_of


def rows(file: Path) -> list[Row]:
    return [row for _, row in read(file) if not isinstance(row, BadRow)]


def write(file: Path, text: str, encoding: str = "utf-8") -> Path:
    data = text.encode(encoding)
    file.write_bytes(gzip.compress(data) if file.suffix.lower() == ".gz" else data)
    return file


EXPECTED = [{"a": "x, y", "b": "1"}, {"a": "z", "b": "2"}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'a,b\n"x, y",1\nz,2\n'),
        ("t.csv", "\ufeffa;b\r\nx, y;1\r\nz;2\r\n"),
        ("t.csv", "sep=;\r\n\r\na;b\r\nx, y;1\r\n;\r\n\r\nz;2;;\r\n"),
        ("t.csv", '"sep=|"\na|b\nx, y|1\nz|2'),
        ("t.csv", "a\tb\nx, y\t1\nz\t2\n"),
        ("T.TSV", "a\tb\nx, y\t1\nz\t2\n"),
        ("t.csv", 'a;b;\r"x, y";1;\rz;2;\r'),
        ("t.json", '[{"a": "x, y", "b": "1"},\n{"a": "z", "b": "2"}]'),
        ("t.jsonl", '\n[{"a": "x, y", "b": "1"}, {"a": "z", "b": "2"}]\n'),
        ("t.json", '{"a": "x, y", "b": "1"}\r\n\r\n{"a": "z", "b": "2"}'),
        ("t.ndjson", '{"a": "x, y", "b": "1"}\n{"a": "z", "b": "2"}\n'),
    ],
)
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_same_table_in_many_forms(name: str, text: str, packed: str, encoding: str, tmp_path: Path) -> None:
    text = text.removeprefix("\ufeff") if encoding == "utf-16" else text
    assert rows(write(tmp_path / f"{name}{packed}", text, encoding)) == EXPECTED


def test_parquet_is_a_table_too(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    parquet.write_table(pa.Table.from_pylist([{"a": "x", "b": None}, {"a": "y", "b": 2.5}]), file)
    assert list(read(file)) == [(1, {"a": "x", "b": None}), (2, {"a": "y", "b": 2.5})]
    assert place(file, 2) == "row 2"


@pytest.mark.parametrize("name", ["t", "t.txt", "t.TXT.gz"])
def test_lines_of_text_are_split_where_lines_end_and_nowhere_else(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / name, "\ufeff one\u2028two\r\n\n[three,\x0c four\r\n")
    assert list(read(file)) == [(1, {"text": "one\u2028two"}), (3, {"text": "[three,\x0c four"})]


def test_a_file_of_one_column_has_no_delimiter(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", 'text\nWell, yes; no.\n"Quoted, ""too""."\n')
    assert [row["text"] for row in rows(file)] == ["Well, yes; no.", 'Quoted, "too".']
    plain = write(tmp_path / "t.tsv", 'text\n"Yes", he said.\n')
    assert [row["text"] for row in rows(plain)] == ['"Yes", he said.']


def test_bad_rows_have_the_number_of_the_line_where_they_begin(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", 'sep=,\na,b\n"two\nlines",1\n\nx,y,z\nlast\n')
    numbered = [(number, str(row) if isinstance(row, BadRow) else row) for number, row in read(file)]
    assert numbered == [
        (3, {"a": "two\nlines", "b": "1"}),
        (6, "has 3 fields, the first line 2: quote a field with the delimiter in it"),
        (7, {"a": "last"}),
    ]
    file = write(tmp_path / "t.jsonl", '{"a": "\u2028"}\n\n{"a": }\n[1]\n"text"\n7\n')
    numbered = [(number, str(row) if isinstance(row, BadRow) else row) for number, row in read(file)]
    assert [number for number, _ in numbered] == [1, 3, 4, 5, 6]
    assert str(numbered[1][1]).startswith("is not JSON: ")
    assert numbered[2:] == [(4, "is not a JSON object"), (5, {"text": "text"}), (6, "is not a JSON object")]
    assert place(file, 4) == "line 4"
    assert place(tmp_path / "t.json.gz", 4) == "row 4"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "t.xlsx",
            b"",
            "a file must end in .txt, .csv, .tsv, .json, .jsonl, .ndjson, .parquet, or in .gz after one of",
        ),
        ("t.parquet.gz", b"", "a file must end in .txt"),
        ("t.csv", "s\u00e4tze\n".encode("latin-1"), "is not UTF-8 (invalid continuation byte): save it as UTF-8"),
        ("t.csv.gz", b"no gzip", "can't be read: Not a gzipped file"),
        ("t.csv.gz", gzip.compress(b"a,b\n" * 9, mtime=0)[:-12], "can't be read: "),
        ("t.csv", b"a,b\n" + b"x" * 200_000, "can't be read: field larger than field limit"),
        ("t.json", b'[{"a": 1},\n{"a": }]', "is not JSON: Expecting value: line 2 column 7"),
        ("t.json", b"[" * 100_000, "is not JSON: "),
        ("t.parquet", b"PAR1", "can't be read: "),
    ],
)
def test_a_file_that_is_no_table_is_one_clear_line(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(Fatal, match=re.escape(f"{file}: {message}")) as error:
        list(read(file))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"nowhere\.csv: can't be read: No such file or directory"):
        list(read(tmp_path / "nowhere.csv"))


def test_columns_are_found_whatever_their_case_and_spaces() -> None:
    row = {" Sentence 1": "x", "sentence_1": "later", "Text-B": None, "n": float("nan"), "Größe": 0, "blank": " "}
    values = by_folded_name(row)
    assert find(values, ["text_b", "sentence1"]) == "x"
    assert find(values, ["GRÖSSE"]) == 0
    assert [find(values, [name]) for name in ("text_b", "n", "blank", "none")] == [None] * 4
    assert str(missing(row, ["text_b", "other"], "--columns")) == "text_b is empty"
    told = "has no a (nor b); its columns are ' Sentence 1', 'sentence_1', 'Text-B', 'n', 'Größe', 'blank'; "
    assert str(missing(row, ["a", "b"], "--columns NAME=a")) == told + "--columns NAME=a says which is meant"


def test_text_is_one_line() -> None:
    assert text_of(" a\tb\u2028c\u0085d  e\u00a0f ", "x") == "a b c d  e\u00a0f"
    assert text_of("a\nb", "x") == "a\nb", "a line break is the writer's and not replaced"
    for value in (None, 5, ["a"]):
        with pytest.raises(BadRow, match=r"x: .* is no text"):
            text_of(value, "x")
