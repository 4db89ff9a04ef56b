"""What may become current: the gate on its own."""

import time
from collections.abc import Sequence

import numpy as np
import pytest

from services.trainer.estimation.estimate import Estimator, RankEstimator
from services.trainer.estimation.sample import TextPairs
from services.trainer.evaluation.sts import Encode
from services.trainer.publishing.gate import Decision, Gate, Student, Verdict

GATE = Gate(margin=0.2, confidence=0.95)
TEXTS = [f"{angle:.3f}" for angle in np.random.default_rng(0).uniform(0, 80, 200)]


def noisy(noise: float, seed: int = 1) -> Encode:
    """A student that knows each text's angle, up to noise."""

    def encode(texts: Sequence[str]) -> np.ndarray:
        errors = [np.random.default_rng([seed, *text.encode()]).normal() * noise for text in texts]
        angles = np.radians(np.array([float(text) for text in texts]) + errors)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    return encode


def estimator(anchors: int) -> Estimator:
    """What knows the angles better than any student."""
    random = np.random.default_rng(1)
    pairs = np.array([(one, other) for one in range(anchors) for other in random.integers(anchors, 200, 8)])
    gaps = [abs(float(TEXTS[one]) - float(TEXTS[other])) for one, other in pairs]
    return RankEstimator("grouping", TextPairs(TEXTS, pairs), -np.array(gaps) + random.normal(size=len(pairs)))


def decide(candidate: Encode, base: Encode, *more: Encode, anchors: int = 100, gate: Gate = GATE) -> Verdict:
    students = [Student(name, encode, 2, "base") for name, encode in (("candidate", candidate), ("base", base))]
    versions = [Student(f"r{number}", encode, 2, "base") for number, encode in enumerate(more)]
    return gate.decide(students[0], [students[1], *versions], [estimator(anchors)], TEXTS[:60])


@pytest.mark.parametrize("anchors", [20, 100])
def test_a_clear_loss_is_rejected_and_a_gain_published(anchors: int) -> None:
    better, worse = decide(noisy(2), noisy(30), anchors=anchors), decide(noisy(60), noisy(3), anchors=anchors)
    assert better.decision is Decision.PUBLISH
    assert better.reason.startswith("it is estimated to be better than base: +")
    assert worse.decision is Decision.REJECT
    assert worse.reason.startswith("it is estimated to be worse than base: -")
    assert worse.compared["base"]["grouping"]["worse"] >= 0.95
    assert worse.estimates["candidate"]["grouping"].value < worse.estimates["base"]["grouping"].low


def test_a_round_promises_a_gain_over_the_base_but_not_over_every_version() -> None:
    same = noisy(10)
    verdict = decide(same, same)
    assert (verdict.decision, verdict.reason.split(":")[0]) == (
        Decision.REJECT,
        "it is estimated to be no better than base",
    )
    assert decide(noisy(5, seed=2), noisy(20), noisy(5)).decision is Decision.PUBLISH, "noise is no reason"
    unsure = [decide(noisy(10, seed=seed), noisy(10), anchors=20) for seed in range(2, 12)]
    held = [verdict for verdict in unsure if verdict.decision is Decision.HOLD]
    assert not [verdict for verdict in unsure if verdict.decision is Decision.PUBLISH]
    assert all(verdict.reason.startswith("it isn't sure to be better than base: +") for verdict in held)
    assert held
    assert decide(noisy(15), noisy(30), noisy(1)).reason.startswith("it is estimated to be worse than r0: -")


def test_without_evidence_a_candidate_is_held() -> None:
    students = [Student(name, noisy(1), 2, "base") for name in ("candidate", "base")]
    verdict = GATE.decide(students[0], students[1:], [], TEXTS[:60])
    assert verdict.decision is Decision.HOLD
    assert "no evidence" in verdict.reason
    assert Gate(0.2, 0.95, is_off=True).decide(students[0], students[1:], [], TEXTS).decision is Decision.PUBLISH


def broken(factor: float) -> Encode:
    return lambda texts: np.full((len(texts), 2), factor, dtype=np.float32)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (broken(float("nan")), "its vectors are not finite"),
        (broken(0.0), "its vectors have a mean length of 0"),
        (broken(1e9), "its vectors have a mean length of 1.41e"),
        (broken(1.0), "the student finds all pairs equally similar"),
        (lambda texts: np.ones((len(texts), 3), dtype=np.float32), "its vectors have 3 dimensions instead of 2"),
    ],
)
def test_bad_vectors_are_named(candidate: Encode, reason: str) -> None:
    verdict = decide(candidate, noisy(3))
    assert verdict.decision is Decision.REJECT
    assert verdict.reason.startswith(reason)


def test_a_reference_that_is_broken_is_no_reason() -> None:
    assert decide(noisy(2), noisy(30), broken(1.0)).decision is Decision.PUBLISH


def test_what_makes_it_slower_is_named() -> None:
    def slow(texts: Sequence[str]) -> np.ndarray:
        time.sleep(0.15)
        return np.asarray(noisy(3)(texts))

    assert decide(slow, noisy(3)).reason.startswith("it takes 0.1")
