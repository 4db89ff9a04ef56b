"""The trainer's settings, from the environment."""

import logging
import os

import pytest

from services.trainer.settings import TrainerSettings
from shared.errors import Fatal
from shared.settings import load

NEW, OLD = "PAIRWRIGHT_TRAINER_TEACHER_EMBEDDINGS", "PAIRWRIGHT_TRAINER_VIEWS"  # retired: remove in 0.3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EPOCHS", "0", "Input should be greater than 0"),
        ("WAIT_FOR_GENERATION", "maybe", "Input should be 'auto', 'always' or 'never'"),
        ("MATRYOSHKA", "64;32", "Value error, must be numbers of dimensions, separated by commas"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(f"PAIRWRIGHT_TRAINER_{name}", value)
    with pytest.raises(Fatal, match=f"PAIRWRIGHT_TRAINER_{name}: {message}"):
        load(TrainerSettings)


def test_a_setting_s_old_name_works_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {OLD: "7"})
    with caplog.at_level(logging.WARNING):
        assert [load(TrainerSettings).teacher_embeddings for _ in range(2)] == [7, 7]
    assert [record.message for record in caplog.records] == [
        f"{OLD} is called {NEW} now; the old name works until version 0.3"
    ]


def test_a_setting_s_new_name_goes_before_its_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {OLD: "7", NEW: "8"})
    assert load(TrainerSettings).teacher_embeddings == 8
