"""Whether a candidate may become the current version: sanity checks, then the paired bootstrap on the dev pairs.

A candidate is refused when the bootstrap is sure (0.95 by default) that it is worse by more than the margin; why the
burden of proof is on the rejection: docs/decisions/0030-reject-candidates-that-are-proven-worse.md.
"""

import timeit
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from services.trainer.evaluation.bootstrap import difference
from services.trainer.evaluation.sts import Encode, Row, Undefined, similarities

SHORTEST, LONGEST, MOST_ZEROS = 1e-4, 1e4, 0.05
"""What a healthy student's mean vector length stays between, and the largest share of zero vectors."""
SLOWER, SLACK_S, TIMINGS, TIMED_TEXTS = 2.0, 0.05, 5, 256


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
    cosines: npt.NDArray[np.float64] | None,
    texts: Sequence[str],
    margin: float,
    confidence: float,
) -> tuple[str | None, dict[str, Any]]:
    """Why the candidate is refused, or None; and what was compared, for its manifest. Vectors are checked on `texts`.

    `dev` may be empty. `cosines`: the candidate's on `dev`, [pairs]; None where its vectors are not finite.
    """
    facts: dict[str, Any] = {"margin": margin, "confidence": confidence, "compared": {}}
    reason = _find_bad_vectors(candidate, texts)
    if reason is None and references:
        reason = _find_mismatch(candidate, references[0], texts)
    if reason is not None:
        return reason, facts
    if not dev or not references:
        facts["note"] = "there is no dev side to compare on" if not dev else "there is no version to compare with"
        return None, facts
    if cosines is None:
        return "it has no dev score: the student's vectors are not finite", facts
    if np.ptp(cosines) == 0:
        return "it has no dev score: the student finds all pairs equally similar", facts
    gold, groups = [row[2] for row in dev], [row[0] for row in dev]
    for reference in references:
        try:
            old = similarities(reference.encode, dev)
        except Undefined:
            continue  # whatever the candidate is, it is better than that
        change = difference(gold, old, cosines, margin, groups)
        facts["compared"][reference.name] = asdict(change)
        if change.worse >= confidence:
            where = f"{reference.name} on {len(dev)} dev pairs (95 % interval {change.low:+.2f} to {change.high:+.2f})"
            return f"{-change.value:.2f} points worse than {where}; {margin:g} are allowed", facts
    return None, facts


def _find_bad_vectors(candidate: Student, texts: Sequence[str]) -> str | None:
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


def _find_mismatch(candidate: Student, current: Student, texts: Sequence[str]) -> str | None:
    """What differs although a training run can't have changed it, when both come from one base."""
    if candidate.base != current.base:
        return None
    if candidate.dimensions != current.dimensions:
        return f"it has {candidate.dimensions} dimensions, {current.name} has {current.dimensions}"
    timed = list(islice(cycle(texts), TIMED_TEXTS))
    runs = [partial(student.encode, timed) for student in (candidate, current)]
    # Each side's best time, in turns: the machine may be busy with something else.
    times = [[timeit.timeit(run, number=1) for run in runs] for _ in range(TIMINGS)]
    new, old = map(min, zip(*times, strict=True))
    if new > SLOWER * old + SLACK_S:
        return f"it takes {new:.3f} s for {len(timed)} sentences, {current.name} takes {old:.3f} s"
    return None
