"""When a round starts."""

import pytest

from services.trainer.settings import TrainerSettings
from services.trainer.worker.scheduler import Patience, due, retry_pause_s, yields_to_generation


@pytest.mark.parametrize(
    ("new", "idle_s", "expected"),
    [(0, 1e9, False), (200, 0, True), (199, 59, False), (199, 60, True), (30, 60, True), (29, 1e9, False)],
)
def test_many_pairs_or_some_and_then_quiet(new: int, idle_s: float, expected: bool) -> None:
    settings = TrainerSettings(round_pairs=200, round_min_pairs=30, round_seconds=60)
    assert due(new, idle_s, settings) is expected


def test_the_pause_after_a_failure_grows_fourfold() -> None:
    settings = TrainerSettings(retry_seconds=2)
    assert [retry_pause_s(failures, settings) for failures in (1, 2, 3)] == [2, 8, 32]


def test_waiting_can_be_forced_and_forbidden() -> None:
    assert yields_to_generation("always")
    assert not yields_to_generation("never")


def test_patience_ends_with_generation() -> None:
    patience = Patience(limit_s=10)
    assert [patience.lasts(busy, now) for busy, now in ((True, 0), (True, 9), (False, 9.5))] == [True, True, False]


def test_patience_has_a_limit_and_begins_anew() -> None:
    patience = Patience(limit_s=10)
    assert [patience.lasts(True, now) for now in (0, 9.9, 10, 11, 20, 21)] == [True, True, False, True, True, False]


def test_a_free_machine_needs_no_patience() -> None:
    assert not Patience(limit_s=10).lasts(False, 0)
