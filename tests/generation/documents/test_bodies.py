"""Bodies as documents, in whatever pieces they come."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.documents.bodies import BadBody, Items
from shared.tables import BadRow

Found = list[tuple[int, object]]


def read(body: bytes, size: int) -> Found:
    items, found = Items(), list[tuple[int, object]]()
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    for piece in pieces:
        found += items.feed(piece)
    found += items.feed(b"", is_last=True)
    return [(number, str(row) if isinstance(row, BadRow) else row) for number, row in found]


TEXTS = ["The pool is closed.", "Ünïcödé, 日本 \u2028 𝄞", 'with "quotes" and \\', "two\nlines", "]", "[", ","]


@given(st.integers(1, 40), st.booleans(), st.sampled_from([None, 1, 4]))
def test_lines_and_lists_are_the_same_in_any_pieces(size: int, is_ascii: bool, indent: int | None) -> None:
    rows = [{"id": str(number), "text": text} for number, text in enumerate(TEXTS)]
    lines = "\n".join(json.dumps(row, ensure_ascii=is_ascii) for row in rows)
    expected = list(enumerate(rows, start=1))
    assert read(lines.encode(), size) == expected
    assert read(json.dumps(rows, ensure_ascii=is_ascii, indent=indent).encode(), size) == expected
    assert read(json.dumps(TEXTS).encode(), size) == [(number, {"text": row["text"]}) for number, row in expected]


def test_empty_lines_are_passed_over_and_bad_ones_have_their_number() -> None:
    found = read(b'\xef\xbb\xbf{"text": "a"}\r\n\n{"text"}\n7\n"b"', 3)
    assert [number for number, _ in found] == [1, 3, 4, 5]
    assert str(found[1][1]).startswith("is not JSON")
    assert [found[0][1], *found[2:]] == [{"text": "a"}, (4, "is not a JSON object"), (5, {"text": "b"})]


@pytest.mark.parametrize("body", [b"", b"  \n ", b"[]", b" [ ] "])
def test_an_empty_body_has_no_rows(body: bytes) -> None:
    assert read(body, 2) == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'["a", ', "the list doesn't end"),
        (b'["a", {"text": ]', "item 2: is not JSON"),
        (b'["a"] "b"', "something comes after the list"),
        (b'"a"\n\xff\xfe', "line 2: is not UTF-8"),
    ],
)
def test_what_can_not_be_read_on_says_where(body: bytes, error: str) -> None:
    with pytest.raises(BadBody, match=error):
        read(body, 4)


def test_a_line_without_end_is_refused_before_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.generation.documents.bodies.MAX_ITEM_CHARS", 1000)
    for start in (b'"', b'["'):
        items = Items()
        for _ in range(9):
            assert list(items.feed(start + b"x" * 100)) == []
            start = b""
        with pytest.raises(BadBody, match="has more than 1000 characters"):
            list(items.feed(b"x" * 200))
