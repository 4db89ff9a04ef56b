"""`python -m services.generation filter`: which pairs of a file today's filters would throw away."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from services.generation.commands.filter_pairs import FilterOptions, filter_pairs
from services.generation.commands.options import parse
from shared.errors import Fatal

PAIRS = [
    {"sentence1": "A ship sails.", "sentence2": "A boat is on the water.", "score": 1.0, "label": "1"},
    {"sentence1": "A ship sails.", "sentence2": "The word for it is", "score": 1.0},
    {"sentence1": "A ship sails.", "sentence2": "The company closed one of its banks.", "score": 0.5},
    {"sentence1": "Let the dough rest for an hour.", "sentence2": "The dough rests.", "score": 0.0},
    {"sentence1": "A ship sails.", "sentence2": "A ship sail.", "score": 0.25},
]


def filtered(file: Path, *more: str) -> dict[str, Any]:
    options = parse(["filter", str(file), *more])
    assert isinstance(options, FilterOptions)
    return filter_pairs(options, None)


def test_the_filters_over_a_file(tmp_path: Path) -> None:
    file, out, rejected = (tmp_path / f"{name}.jsonl" for name in ("pairs", "kept", "rejected"))
    file.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    counts = filtered(file, "--out", str(out), "--rejected", str(rejected))
    assert counts == {
        "pairs": 5,
        "rejected": 3,
        "rejected_by_reason": {"fragment": 1, "exemplar": 1, "near_copy": 1},
    }
    assert [json.loads(line) for line in out.read_text().splitlines()] == [PAIRS[0], PAIRS[3]]
    assert [json.loads(line)["reason"] for line in rejected.read_text().splitlines()] == [
        "fragment",
        "exemplar",
        "near_copy",
    ]
    assert filtered(file, "--first-sentences")["rejected_by_reason"]["sentence1: exemplar"] == 1


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ('{"sentence1": "a"}\n', (), "pairs.jsonl, line 1: is not a pair: KeyError('sentence2')"),
        (f"{json.dumps(PAIRS[0])}\n[\n", (), "pairs.jsonl, line 2: is not a pair: "),
        (f"{json.dumps(PAIRS[0] | {'score': 2})}\n", (), "pairs.jsonl, line 1: score: "),
        ("", ("--task", "nope"), "--task: there is no task 'nope'; known: nli"),
        ("", ("--out", "/proc/no/file"), "/proc/no/file: No such file"),
    ],
)
def test_one_line_says_what_is_wrong(text: str, arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    with pytest.raises(Fatal, match=re.escape(message)):
        filtered(file, *arguments)
    with pytest.raises(Fatal, match="No such file"):
        filtered(tmp_path / "nowhere.jsonl")
