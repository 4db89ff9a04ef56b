"""What a job still needs: pure bookkeeping, a function of its plan and of the units recorded so far, in their order.

The work is cut into *units*, one a first sentence with all its labels, and units come in *waves*. The first wave is
everything that is asked for. What it leaves missing makes the next: pairs that the dataset had already, or, where a
number of accepted pairs is wanted, as many more first sentences as that should take. A wave depends on nothing but the
records before it, and records are made in the units' order, so whoever works on a job, in whatever order, on however
many machines, and after however many deaths, the job comes out the same.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from services.generation.pairs.plan import Plan

MAX_BOOST = 2.0
"""A wave may be this much larger than what is missing, to make up for what will be rejected."""

Outcome = Literal["complete", "exhausted"]


@dataclass(frozen=True)
class WorkItem:
    """One unit to write."""

    index: int
    """Its place among all the job's units: records are made in this order."""
    number: int
    """Which first sentence of the job it is about; seeds depend on it."""
    wave: int
    wants: Mapping[str, int]
    """Pairs to write by label."""
    attempts: int
    """How often each is tried."""
    sentence1: str | None = None
    """The first sentence, unless the teacher has to write it."""
    known: tuple[tuple[str, str], ...] = ()
    """(label, sentence 2) that an earlier wave has for this first sentence."""


@dataclass(frozen=True)
class _Wave:
    """Units `first` to `first + len(units)`."""

    first: int
    units: range | list[WorkItem]
    wants: Mapping[str, int]


class JobProgress:
    """One job's account. `record` it unit by unit; `assignment` says what each unit is."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._labels = plan, plan.labels_of(plan.spec)
        self.requested = plan.pairs_requested(plan.spec)
        self.recorded = 0
        """Units whose records are in."""
        self.total = 0
        """Units known so far."""
        self.accepted: Counter[str] = Counter()
        """Pairs by label."""
        self.rejected: Counter[str] = Counter()
        """Samples by the reason for which they were thrown away."""
        self.samples = 0
        """Second sentences sampled."""
        self.done = False
        self._asked: Counter[str] = Counter()
        self._waves: list[_Wave] = []
        self._lost: list[WorkItem] = []
        wants = dict.fromkeys(self._labels, plan.pairs_per_label)
        sentences = plan.sentences if plan.pairs is None else math.ceil(plan.pairs / plan.pairs_per_label)
        self._add_wave(range(sentences), wants)

    @property
    def outcome(self) -> Outcome:
        """How the job ended. Only when `done`."""
        return "complete" if self.accepted.total() >= self.requested else "exhausted"

    def room(self, label: str) -> int:
        """How many more pairs of a label may be accepted."""
        if self._plan.pairs is None:
            return self.requested
        return self._plan.pairs - self.accepted[label]

    def assignment(self, index: int) -> WorkItem:
        """Unit `index`, which must be below `total` and not recorded long ago."""
        wave_number, wave = next(
            (number, wave) for number, wave in reversed(list(enumerate(self._waves))) if wave.first <= index
        )
        if isinstance(wave.units, list):
            return wave.units[index - wave.first]
        number = wave.units[index - wave.first]
        inputs = self._plan.inputs
        sentence1 = inputs[number % len(inputs)] if inputs else None
        return WorkItem(index, number, wave_number, wave.wants, self._plan.attempts, sentence1)

    def record(self, record: Mapping[str, Any]) -> None:
        """Enter what became of the next unit: see `records.Record`."""
        assignment = self.assignment(self.recorded)
        self.recorded += 1
        self._asked.update(assignment.wants)
        accepted = Counter(pair["label"] for pair in record["pairs"])
        self.accepted.update(accepted)
        self.rejected.update(record["rejected"])
        self.samples += record["samples"]
        if record["lost"] and self._plan.pairs is None:
            known = (*assignment.known, *((pair["label"], pair["sentence2"]) for pair in record["pairs"]))
            again = WorkItem(
                index=-1,
                number=assignment.number,
                wave=assignment.wave + 1,
                wants=dict(record["lost"]),
                attempts=assignment.attempts - 1,
                sentence1=record["sentence1"],
                known=known,
            )
            self._lost.append(again)
        if self.recorded == self.total:
            self._plan_wave()

    def _plan_wave(self) -> None:
        """All units so far are in: add those that are still needed, or be done."""
        if self._plan.pairs is None:
            again = [one for one in self._lost if one.attempts > 0]
            self._lost = []
            if not again:
                self.done = True
                return
            first = self.total
            units = [
                WorkItem(first + place, one.number, one.wave, one.wants, one.attempts, one.sentence1, one.known)
                for place, one in enumerate(again)
            ]
            self._add_wave(units, {})
            return
        missing = {label: self._plan.pairs - self.accepted[label] for label in self._labels}
        missing = {label: count for label, count in missing.items() if count > 0}
        budget = self._plan.attempts * self.requested
        left = budget - max(self.samples, self.recorded)  # a unit whose first sentence failed has no samples
        if not missing or left <= 0:
            self.done = True
            return
        each = {label: min(self._plan.pairs_per_label, count) for label, count in missing.items()}
        wanted = max(math.ceil(count / each[label] * self._boost(label)) for label, count in missing.items())
        affordable = max(1, left // sum(each.values()))
        number = sum(len(wave.units) for wave in self._waves)
        self._add_wave(range(number, number + min(wanted, affordable)), each)

    def _boost(self, label: str) -> float:
        return min(MAX_BOOST, self._asked[label] / self.accepted[label]) if self.accepted[label] else MAX_BOOST

    def _add_wave(self, units: range | list[WorkItem], wants: Mapping[str, int]) -> None:
        self._waves.append(_Wave(self.total, units, wants))
        self.total += len(units)
