"""Correlations, and the STS files they are computed on."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from services.trainer.commands.evaluate import table
from services.trainer.evaluation.sts import StsFile, Undefined, score, sts_files
from shared.errors import Fatal

HEADER = "score\tsentence1\tsentence2\tsubset\n"


def on_a_circle(texts: Sequence[str]) -> np.ndarray:
    """Each text is an angle in degrees; its vector has a length that must not matter."""
    angles = np.radians([float(text) for text in texts])
    vectors: np.ndarray = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * (3 + angles[:, None])).astype(
        np.float32
    )
    return vectors


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_bytes(gzip.compress(text.encode()))
    return file


def test_a_perfect_ranking_scores_100_and_its_reverse_minus_100() -> None:
    rows = [("0", "90", 0.0), ("0", "45", 2.0), ("10", "20", 5.0)]
    assert score(on_a_circle, rows) == pytest.approx(100)
    assert score(on_a_circle, [(one, other, -gold) for one, other, gold in rows]) == pytest.approx(-100)


def test_ties_share_their_rank() -> None:
    rows = [("0", "90", 0.0), ("0", "45", 0.0), ("10", "20", 1.0), ("10", "40", 1.0)]
    assert score(on_a_circle, rows) == pytest.approx(89.4427, abs=1e-3)  # 2 / sqrt(5)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no pairs"),
        ([("0", "1", 1.0), ("0", "2", 1.0)], "one score"),
        ([("5", "5", 1.0), ("7", "7", 0.0)], "equally similar"),
        ([("nan", "5", 1.0), ("7", "9", 0.0)], "not finite"),
    ],
)
def test_where_there_is_no_correlation_none_is_made_up(rows: list[tuple[str, str, float]], reason: str) -> None:
    with pytest.raises(Undefined, match=reason):
        score(on_a_circle, rows)


def test_sentences_keep_quotes_and_odd_line_separators(tmp_path: Path) -> None:
    write(tmp_path, "a.test.tsv.gz", HEADER + '2.5\tA "quote\tb\u2028c\tx\n5\td\te\tx\n')
    write(tmp_path, "sources.tsv.gz", "row\tauthor\n1\tsomeone\n")
    write(tmp_path, "sentences.txt.gz", "A sentence.\n")
    rows = [('A "quote', "b\u2028c", 2.5), ("d", "e", 5.0)]
    assert sts_files(tmp_path) == {"a.test": StsFile(rows, ["x", "x"])}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1\ta\tb\tx\n2\ta\tb\n", "line 3: has 3 fields instead of 4"),
        (HEADER + "high\ta\tb\tx\n", "line 2: the score 'high' is not a number"),
        (HEADER + "nan\ta\tb\tx\n", "line 2: the score 'nan' is not a number"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, "bad.tsv.gz", text)
    with pytest.raises(Fatal) as caught:
        sts_files(tmp_path)
    assert str(caught.value) == f"{file}, {message}"


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "cut.tsv.gz", HEADER + "1\ta\tb\tx\n" * 100)
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(Fatal, match=r"cut\.tsv\.gz: can't be read"):
        sts_files(tmp_path)


def test_a_folder_without_files_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"has no \*\.tsv\.gz file"):
        sts_files(tmp_path)
    with pytest.raises(Fatal, match="there is no folder"):
        sts_files(tmp_path / "nowhere")


def test_the_table_lines_up() -> None:
    assert table({"stsb.test": 56.28, "average": 7.5}, "a student").splitlines() == [
        "a student",
        "  stsb.test   56.28",
        "  average      7.50",
    ]
