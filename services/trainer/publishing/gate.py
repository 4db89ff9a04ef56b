"""Whether a candidate may become the current version: sanity checks, then the label-free estimate against others.

A candidate is published when the paired bootstrap is sure that it is better than the untrained base, and not sure that
it is worse than the base, the current or the best version on any kind of task. It is rejected when it is estimated to
be worse, and held for a person otherwise: docs/decisions/0050-publish-what-is-sure-to-be-better.md.
"""

import timeit
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import partial
from itertools import cycle, islice

import numpy as np

from services.trainer.estimation.estimate import Estimator, Numbers
from services.trainer.evaluation.sts import Encode, Undefined
from shared.manifest import Estimate

SHORTEST, LONGEST, MOST_ZEROS = 1e-4, 1e4, 0.05
"""What a healthy student's mean vector length stays between, and the largest share of zero vectors."""
SLOWER, SLACK_S, TIMINGS, TIMED_TEXTS = 2.0, 0.05, 5, 256

CANDIDATE, BASE = "candidate", "base"
Differences = Mapping[str, Mapping[str, float]]
"""By kind of task."""

NO_EVIDENCE = "there is no evidence: the dataset has too few different texts, or they are too unlike one another"

Decision = StrEnum("Decision", ["PUBLISH", "REJECT", "HOLD"])


@dataclass(frozen=True)
class Student:
    """One side of the comparison."""

    name: str
    """A version's id, `BASE` or `CANDIDATE`."""
    encode: Encode
    dimensions: int
    base: str


@dataclass(frozen=True)
class Verdict:
    """What becomes of a candidate, and why."""

    decision: Decision
    reason: str
    """In one sentence."""
    compared: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """By reference and kind of task, the difference: `value`, `low`, `high`, and `worse`, a probability."""
    estimates: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """By student and kind of task."""


@dataclass(frozen=True)
class Gate:
    """What is asked of a candidate."""

    margin: float
    """Points by which it may be worse."""
    confidence: float
    """How sure the bootstrap must be that it is worse by more, or better."""
    is_off: bool = False
    """Whether soundness is enough."""

    def decide(
        self, candidate: Student, references: Sequence[Student], estimators: Sequence[Estimator], texts: Sequence[str]
    ) -> Verdict:
        """`references`: the base first, then published versions. Vectors are checked on `texts`."""
        fault = _find_bad_vectors(candidate, texts) or _find_mismatch(candidate, references, texts)
        if fault is not None:
            return Verdict(Decision.REJECT, fault)
        if self.is_off:
            return Verdict(Decision.PUBLISH, "the gate is off (PAIRWRIGHT_TRAINER_GATE)")
        if not estimators:
            return Verdict(Decision.HOLD, NO_EVIDENCE)
        cosines = {}
        for student in (candidate, *references):
            try:
                cosines[student.name] = [one.cosines(student.encode) for one in estimators]
            except Undefined as error:
                if student is candidate:
                    return Verdict(Decision.REJECT, str(error))
                # Whatever the candidate is, it is better than such a reference.
        return self._compare(estimators, cosines)

    def _compare(self, estimators: Sequence[Estimator], cosines: dict[str, list[Numbers]]) -> Verdict:
        own = cosines[CANDIDATE]
        compared = {
            name: {
                one.kind: asdict(one.compare(old, new, self.margin))
                for one, old, new in zip(estimators, olds, own, strict=True)
            }
            for name, olds in cosines.items()
            if name != CANDIDATE
        }
        estimates = {
            name: {
                one.kind: Estimate(**one.estimate(some)._asdict()) for one, some in zip(estimators, values, strict=True)
            }
            for name, values in cosines.items()
        }
        decision, reason = self._decide_on(compared)
        return Verdict(decision, reason, compared, estimates)

    def _decide_on(self, compared: Mapping[str, Differences]) -> tuple[Decision, str]:
        for name, differences in compared.items():
            for kind, change in differences.items():
                if change["worse"] >= self.confidence:
                    return Decision.REJECT, f"it is estimated to be worse than {name}: {_points(change)} at {kind}"
        gains = compared.get(BASE, {})  # a round promises to make the base better
        told = ", ".join(f"{_points(change)} at {kind}" for kind, change in gains.items())
        if gains and np.mean([change["value"] for change in gains.values()]) <= 0:
            return Decision.REJECT, f"it is estimated to be no better than {BASE}: {told}"
        if gains and max(change["better"] for change in gains.values()) < self.confidence:
            return Decision.HOLD, f"it isn't sure to be better than {BASE}: {told}"
        return Decision.PUBLISH, f"it is estimated to be better than {BASE}: {told}"


def _points(change: Mapping[str, float]) -> str:
    return f"{change['value']:+.2f} points (95 % interval {change['low']:+.2f} to {change['high']:+.2f})"


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


def _find_mismatch(candidate: Student, references: Sequence[Student], texts: Sequence[str]) -> str | None:
    """What differs from the newest reference of the same base although a training run can't have changed it."""
    same = [reference for reference in references if reference.base == candidate.base]
    if not same:
        return None
    reference = same[-1]
    if candidate.dimensions != reference.dimensions:
        return f"it has {candidate.dimensions} dimensions, {reference.name} has {reference.dimensions}"
    timed = list(islice(cycle(texts), TIMED_TEXTS))
    runs = [partial(student.encode, timed) for student in (candidate, reference)]
    # Each side's best time, in turns: the machine may be busy with something else.
    times = [[timeit.timeit(run, number=1) for run in runs] for _ in range(TIMINGS)]
    new, old = map(min, zip(*times, strict=True))
    if new > SLOWER * old + SLACK_S:
        return f"it takes {new:.3f} s for {len(timed)} sentences, {reference.name} takes {old:.3f} s"
    return None
