"""What may become current: the gate on its own, and in rounds that are spoilt on purpose."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.trainer.evaluation.bootstrap import difference, interval
from services.trainer.evaluation.gate import Student, compare
from services.trainer.evaluation.sts import Encode, Row, Undefined, similarities
from services.trainer.training.split import in_dev
from tests.support.pairs import make_pairs, plan, records
from tests.support.trainer_homes import Home

LEARN: dict[str, Any] = {"learning_rate": 0.03, "epochs": 5}


def noisy(noise: float, seed: int = 1) -> Encode:
    """A student that knows each text's angle, up to noise."""

    def encode(texts: Sequence[str]) -> np.ndarray:
        random = np.random.default_rng(seed)
        errors = {text: random.normal() * noise for text in sorted(set(texts))}
        angles = np.radians([float(text) + errors[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    return encode


def pairs(count: int) -> list[Row]:
    random = np.random.default_rng(0)
    rows = [(f"{one:.3f}", f"{other:.3f}") for one, other in random.uniform(0, 80, (count, 2))]
    return [(one, other, -round(abs(float(one) - float(other)) / 40)) for one, other in rows]


def verdict(candidate: Encode, current: Encode, dev: list[Row]) -> str | None:
    try:
        cosines = similarities(candidate, dev)
    except Undefined:
        cosines = None
    students = [Student(name, encode, 2, "base") for name, encode in (("candidate", candidate), ("current", current))]
    return compare(students[0], students[1:], dev, cosines, [row[0] for row in dev], 0.2, 0.95)[0]


@pytest.mark.slow
@pytest.mark.parametrize("count", [60, 600])
def test_noise_is_no_reason_and_a_clear_loss_is(count: int) -> None:
    dev = pairs(count)
    assert verdict(noisy(3, seed=1), noisy(3, seed=2), dev) is None
    assert verdict(noisy(2), noisy(10), dev) is None
    reason = verdict(noisy(60), noisy(3), dev)
    assert reason is not None
    assert "points worse than current" in reason
    assert f"on {count} dev pairs" in reason


def broken(factor: float) -> Encode:
    return lambda texts: np.full((len(texts), 2), factor, dtype=np.float32)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (broken(float("nan")), "its vectors are not finite"),
        (broken(0.0), "its vectors have a mean length of 0"),
        (broken(1e9), "its vectors have a mean length of 1.41e"),
        (broken(1.0), "it has no dev score: the student finds all pairs equally similar"),
        (lambda texts: np.ones((len(texts), 3), dtype=np.float32), "its vectors have 3 dimensions instead of 2"),
    ],
)
def test_bad_vectors_are_named(candidate: Encode, reason: str) -> None:
    found = verdict(candidate, noisy(3), pairs(60))
    assert found is not None
    assert found.startswith(reason)


def test_what_makes_it_slower_is_named() -> None:
    def slow(texts: Sequence[str]) -> np.ndarray:
        time.sleep(0.15)
        return np.asarray(noisy(3)(texts))

    found = verdict(slow, noisy(3), pairs(60))
    assert found is not None
    assert found.startswith("it takes 0.1")


@pytest.mark.slow
def test_the_bootstrap_agrees_with_the_theory() -> None:
    random = np.random.default_rng(3)
    gold = random.normal(size=1500)
    cosines = 0.85 * gold + np.sqrt(1 - 0.85**2) * random.normal(size=1500)
    low, high = interval(gold.tolist(), cosines)
    # Standard error about (1 - rho^2) / sqrt(n) for Pearson; Spearman's is a little wider.
    expected = 2 * 1.96 * 100 * (1 - 0.85**2) / np.sqrt(1500)
    assert expected * 0.8 < high - low < expected * 1.5
    same = difference(gold.tolist(), cosines, cosines, 0.2)
    assert (same.value, same.low, same.high, same.worse) == (0, 0, 0, 0)


def test_pairs_of_one_sentence_are_drawn_together() -> None:
    random = np.random.default_rng(4)
    gold = random.normal(size=100)
    cosines = gold + random.normal(size=100)
    repeated = np.repeat(np.arange(100), 10)
    naive = interval(gold[repeated].tolist(), cosines[repeated])
    grouped = interval(gold[repeated].tolist(), cosines[repeated], repeated.tolist())
    once = interval(gold.tolist(), cosines)
    assert np.diff(grouped)[0] == pytest.approx(np.diff(once)[0], rel=0.05)
    assert np.diff(naive)[0] < 0.5 * np.diff(once)[0]


@pytest.mark.slow
def test_a_round_that_learnt_nothing_is_rejected_and_kept_and_the_next_good_one_passes(
    home: Home, static_student: Path
) -> None:
    home.dataset.add(records(make_pairs(600)))
    good = home.published(home.run(plan(home.dataset, 1, static_student), **LEARN))

    told = home.run(plan(home.dataset, 1, static_student), max_steps=1)
    assert told[-1].rejection is not None
    assert home.store.current() == good.id
    assert [manifest.id for manifest in home.store.versions()] == [good.id]
    [rejected] = home.store.rejected()
    assert (rejected.id, rejected.rejection) == (told[-1].version, told[-1].rejection)
    assert f"worse than {good.id}" in told[-1].rejection
    assert rejected.gate["compared"][good.id]["worse"] >= 0.95
    report = (home.store.rejected_path(rejected.id) / "report" / "report.md").read_text()
    assert f"**Rejected:** {rejected.rejection}" in report

    home.dataset.add(records(make_pairs(660)))
    assert home.published(home.run(plan(home.dataset, 1, static_student), **LEARN)).round == 3


@pytest.mark.slow
def test_a_flood_of_wrong_labels_is_rejected(home: Home, static_student: Path) -> None:
    clean = make_pairs(600)
    home.dataset.add(records(clean))
    good = home.published(home.run(plan(home.dataset, 1, static_student), **LEARN))
    taken = {pair.sentence1 for pair in clean}
    # On the training side alone: a flood that reaches the dev side too turns the measure around with it.
    flood = [pair for pair in make_pairs(1500, seed=9) if pair.sentence1 not in taken and not in_dev(pair.sentence1, 1)]
    home.dataset.add(records([pair.model_copy(update={"score": 1 - pair.score}) for pair in flood]))
    told = home.run(plan(home.dataset, 1, static_student), **LEARN)
    assert told[-1].rejection is not None
    assert home.store.current() == good.id


@pytest.mark.slow
def test_a_version_with_another_seed_knows_the_held_out_pairs_and_is_not_compared_with(
    home: Home, static_student: Path
) -> None:
    home.dataset.add(records(make_pairs(300)))
    home.published(home.run(plan(home.dataset, 2, static_student), **LEARN))
    manifest = home.published(home.run(plan(home.dataset, 1, static_student), max_steps=1))
    assert manifest.gate["compared"] == {}
    assert manifest.gate["note"] == "there is no version to compare with"
