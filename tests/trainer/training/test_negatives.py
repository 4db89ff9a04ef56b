"""Mined negatives: near, of another passage, and not what may answer the query as well."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from services.trainer.training import negatives
from services.trainer.training.negatives import write_triplets
from services.trainer.training.split import _rows

PASSAGES = [
    "red apples grow on old trees",
    "old red apples grow on trees",
    "green pears grow on trees",
    "a train leaves at noon",
    "the bank opens at nine",
]
QUERIES = [("where do red apples grow", PASSAGES[0]), ("when does the train leave", PASSAGES[3])]
VOCABULARY = sorted({word for text in [*PASSAGES, *(query for query, _ in QUERIES)] for word in text.split()})


def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """A student that counts words."""
    return np.array([[text.split().count(word) for word in VOCABULARY] for text in texts], np.float32)


def mined(folder: Path, queries: Sequence[tuple[str, str]], passages: Sequence[str]) -> list[tuple[str, ...]]:
    written = write_triplets(queries, passages, encode, folder / "rows.arrow")
    rows = [tuple(map(str, row)) for row in _rows(folder / "rows.arrow")]
    assert written == len(rows)
    return rows


def test_the_nearest_that_is_clearly_less_near_than_the_own(tmp_path: Path) -> None:
    apples, train = mined(tmp_path, QUERIES, PASSAGES)
    assert apples == (*QUERIES[0], PASSAGES[2])  # PASSAGES[1] says the same as the own one
    assert train[:2] == QUERIES[1]
    assert train[2] in {PASSAGES[0], PASSAGES[1], PASSAGES[4]}


def test_a_copy_of_the_own_passage_is_no_negative(tmp_path: Path) -> None:
    copies = [PASSAGES[0], PASSAGES[1], PASSAGES[3]]
    assert mined(tmp_path, QUERIES[:1], copies) == [(*QUERIES[0], PASSAGES[3])]


def test_a_query_without_a_negative_is_left_out(tmp_path: Path) -> None:
    assert mined(tmp_path, QUERIES[:1], [PASSAGES[0]]) == []


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mined(tmp_path, QUERIES * 3, PASSAGES)
    monkeypatch.setattr(negatives, "BLOCK", 2)
    assert mined(tmp_path, QUERIES * 3, PASSAGES) == whole
