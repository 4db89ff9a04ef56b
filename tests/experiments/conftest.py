"""A tiny teacher with two pair sets in its words, once for all tests."""

from pathlib import Path

import pytest

from tests.support.pairs import make_pairs
from tests.support.students import write_teacher


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher/`, and the sets `train` (240 pairs) and `evaluation` (90)."""
    folder = tmp_path_factory.mktemp("experiments")
    for name, count, seed in (("train", 240, 1), ("evaluation", 90, 2)):
        lines = [pair.model_dump_json() for pair in make_pairs(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    write_teacher(folder / "teacher", tied=True)
    return folder
