"""What `make adapt` takes as a list of short texts."""

import json
import random
from pathlib import Path

import pytest

from scripts.short_texts import draw, has_one_a_line, write_as_rows

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "when",
    "does",
    "the",
    "bus",
    "to",
    "the",
    "harbour",
    "leave",
    "and",
    "may",
    "a",
    "dog",
    "come",
    "along",
    "with",
    "a",
    "bag",
    "of",
    "fish",
]


def lines(count: int, fewest: int, most: int) -> list[str]:
    random_ = random.Random(1)
    return [" ".join(random_.choices(WORDS, k=random_.randint(fewest, most))) for _ in range(count)]


def wrapped() -> list[str]:
    """Prose, broken at 72 characters."""
    broken, line = list[str](), ""
    for word in " ".join(lines(300, 10, 20)).split():
        if len(line) + len(word) >= 72:
            broken.append(line)
            line = ""
        line += word + " "
    return broken


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lines(40, 2, 12), True),
        (lines(39, 2, 12), False),
        (lines(400, 30, 60), False),
        (wrapped(), False),
        ([line for text in lines(100, 2, 12) for line in (text, "")], False),
    ],
    ids=["requests", "few", "paragraphs", "prose that is broken at a width", "every second line empty"],
)
def test_a_list_is_told_from_a_document(given: list[str], expected: bool, tmp_path: Path) -> None:
    file = tmp_path / "given.txt"
    file.write_text("\n".join(given) + "\n")
    assert has_one_a_line(file) is expected
    assert not has_one_a_line(file.rename(tmp_path / "given.md"))


def test_the_demo_s_sentences_are_a_list() -> None:
    assert has_one_a_line(ROOT / "scripts" / "demo_sentences.txt")
    assert not has_one_a_line(ROOT / "scripts")
    assert not has_one_a_line(ROOT / "LICENSE")


def test_rows_are_the_lines(tmp_path: Path) -> None:
    file = tmp_path / "given.txt"
    file.write_text('\ufeffFirst "one".\n\n  Second, one. \n', encoding="utf-8")
    rows = write_as_rows(file, tmp_path / "new" / "folder")
    assert rows.name == "given.jsonl"
    assert [json.loads(line)["text"] for line in rows.read_text().splitlines()] == ['First "one".', "Second, one."]


def test_the_same_texts_are_drawn_and_short_ones_only_if_all_are() -> None:
    texts = [f"a text of more than twenty characters {number}" for number in range(50)]
    drawn = draw([*texts, "short"], 20)
    assert len(set(drawn)) == 20
    assert len({*drawn} - {*draw([*texts, *lines(5, 6, 9)], 20)}) < 6
    assert "short" not in draw([*texts, "short"], 100)
    assert draw(["short", "shorter"], 5)
    assert draw(texts, 0) == []
