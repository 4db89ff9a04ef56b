"""Whether a candidate may become the current version: sanity checks, then the paired bootstrap on the dev pairs.

Held-out pairs are few and noisy, so a rule that asked for proof of "not worse" would hold back nearly every round, and
one that took the difference at face value would be a coin toss. The burden of proof is on the rejection: a candidate is
refused when the bootstrap is sure (0.95 by default) that it is worse by more than the margin
(docs/decisions/0030-reject-candidates-that-are-proven-worse.md).
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from services.trainer.evaluation.bootstrap import difference
from services.trainer.evaluation.sts import Encode, Row, Undefined, similarities

SHORTEST, LONGEST = 1e-4, 1e4
"""Lengths that a healthy vector's mean length stays between."""
MOST_ZEROS = 0.05
SLOWER, SLACK_S = 2.0, 0.05
TIMINGS, TIMED_TEXTS = 5, 256


@dataclass(frozen=True)
class Student:
    """One side of the comparison."""

    name: str
    """A version's id, or `candidate`."""
    encode: Encode
    dimensions: int
    base: str


def compare(
    candidate: Student,
    references: Sequence[Student],
    dev: Sequence[Row],
    texts: Sequence[str],
    margin: float,
    sure: float,
) -> tuple[str | None, dict[str, Any]]:
    """Why the candidate is refused, or None; and what was found, for its manifest. `dev` may be empty."""
    facts: dict[str, Any] = {"margin": margin, "confidence": sure, "compared": {}}
    fault = _insane(candidate, texts)
    if fault is None and references:
        fault = _unlike(candidate, references[0], texts)
    if fault is not None:
        return fault, facts
    if not dev or not references:
        facts["note"] = "there is no dev side to compare on" if not dev else "there is no version to compare with"
        return None, facts
    return _compare(candidate, references, dev, facts)


def _compare(
    candidate: Student, references: Sequence[Student], dev: Sequence[Row], facts: dict[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    gold, groups = [row[2] for row in dev], [row[0] for row in dev]
    try:
        new = similarities(candidate.encode, dev)
        if np.ptp(new) == 0:
            raise Undefined("the student finds all pairs equally similar")
    except Undefined as error:
        return f"it has no dev score: {error}", facts
    for reference in references:
        try:
            old = similarities(reference.encode, dev)
        except Undefined:
            continue  # whatever the candidate is, it is better than that
        found = difference(gold, old, new, facts["margin"], groups)
        facts["compared"][reference.name] = asdict(found)
        if found.worse >= facts["confidence"]:
            reason = (
                f"{-found.value:.2f} points worse than {reference.name} on {len(dev)} dev pairs (95 % interval"
                f" {found.low:+.2f} to {found.high:+.2f}); {facts['margin']:g} are allowed"
            )
            return reason, facts
    return None, facts


def _insane(candidate: Student, texts: Sequence[str]) -> str | None:
    """What is wrong with the vectors themselves."""
    vectors = candidate.encode(texts)
    if vectors.shape != (len(texts), candidate.dimensions):
        return f"its vectors have {vectors.shape[-1]} dimensions instead of {candidate.dimensions}"
    if not np.isfinite(vectors).all():
        return "its vectors are not finite"
    lengths = np.linalg.norm(vectors, axis=1)
    if not SHORTEST <= lengths.mean() <= LONGEST:
        return f"its vectors have a mean length of {lengths.mean():.3g}"
    if (zeros := float((lengths < SHORTEST).mean())) > MOST_ZEROS:
        return f"{100 * zeros:.0f} % of its vectors are zero"
    return None


def _unlike(candidate: Student, current: Student, texts: Sequence[str]) -> str | None:
    """What a training run can't have changed, when both come from one base."""
    if candidate.base != current.base:
        return None
    if candidate.dimensions != current.dimensions:
        return f"it has {candidate.dimensions} dimensions, {current.name} has {current.dimensions}"
    timed = [text for text, _ in zip(_cycle(texts), range(TIMED_TEXTS), strict=False)]
    new, old = _fastest(candidate.encode, current.encode, timed)
    if new > SLOWER * old + SLACK_S:
        return f"it takes {new:.3f} s for {len(timed)} sentences, {current.name} takes {old:.3f} s"
    return None


def _fastest(one: Encode, other: Encode, texts: Sequence[str]) -> tuple[float, float]:
    """Each side's best time, in turns: the machine may be busy with something else."""
    best = [float("inf"), float("inf")]
    for _ in range(TIMINGS):
        for side, encode in enumerate((one, other)):
            began = time.perf_counter()
            encode(texts)
            best[side] = min(best[side], time.perf_counter() - began)
    return best[0], best[1]


def _cycle(texts: Sequence[str]) -> list[str]:
    return list(texts) * (TIMED_TEXTS // max(1, len(texts)) + 1)
