"""What a job still needs: a function of its plan and of the results recorded so far, in their order.

The work is cut into *work items*, one a first sentence with all its labels, and items come in *passes*. The first pass
is everything that is asked for. What it leaves missing makes the next: pairs that the dataset had already, or, where a
number of accepted pairs is wanted, as many more first sentences as that should take. So a job comes out the same,
whatever the order in which its items were written, and after however many deaths.
"""

import bisect
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from services.generation.pairs.comparison import words_of
from services.generation.pairs.plan import ResolvedPlan
from services.generation.pairs.seeds import in_turn
from services.generation.pairs.work_item import Known, WorkItem, WorkItemResult

MAX_BOOST = 2.0
"""A pass may be this much larger than what is missing, to make up for what will be rejected."""


@dataclass(frozen=True)
class _Pass:
    """Items `first` to `first + len(items)`: new first sentences by their numbers, or items to write again."""

    first: int
    items: range | Sequence[WorkItem]
    wants: Mapping[str, int]


class JobProgress:
    """One job's account. `record` it result by result; `work_item` says what each item is."""

    def __init__(self, plan: ResolvedPlan, queries: Known[frozenset[str]] | None = None) -> None:
        """`queries`: an empty set for the words of each query; memory by default."""
        self._plan = plan
        self.requested = plan.pairs_requested
        self.recorded, self.total = 0, 0
        """Items whose results are in, and items that exist so far."""
        self.accepted, self.rejected, self._asked = Counter[str](), Counter[str](), Counter[str]()
        """Pairs by label, samples by the reason for which they were thrown away, and pairs asked for by label."""
        self.samples = 0
        """Second sentences sampled."""
        self.done = False
        self._passes: list[_Pass] = []
        self._lost: list[WorkItem] = []
        self._queries: Known[frozenset[str]] = set() if queries is None else queries
        """The words of each that was accepted."""
        self._add_pass(range(plan.first_sentences), dict.fromkeys(plan.label_names, plan.pairs_per_label))

    @property
    def outcome(self) -> Literal["complete", "exhausted"]:
        """How the job ended. Only when `done`."""
        return "complete" if self.accepted.total() >= self.requested else "exhausted"

    def counts(self) -> dict[str, Any]:
        """What commands tell of a job that is `done`."""
        return {
            "state": self.outcome,
            "requested": self.requested,
            "accepted": self.accepted.total(),
            "accepted_by_label": dict(self.accepted),
            "rejected_by_reason": dict(self.rejected),
            "samples": self.samples,
        }

    def _room(self, label: str) -> int:
        """How many more pairs of a label may be accepted."""
        return self.requested if self._plan.pairs is None else self._plan.pairs - self.accepted[label]

    def work_item(self, index: int) -> WorkItem:
        """Item `index`, which must be below `total`."""
        pass_number = bisect.bisect_right(self._passes, index, key=lambda one: one.first) - 1
        current = self._passes[pass_number]
        item = current.items[index - current.first]
        if isinstance(item, WorkItem):
            return item
        inputs = self._plan.inputs
        given = inputs[item % len(inputs)] if inputs else None
        return WorkItem(index, item, pass_number, self._wants(item, current), self._plan.attempts, given)

    def _wants(self, number: int, current: _Pass) -> Mapping[str, int]:
        if not self._plan.draws_label:
            return current.wants
        label = in_turn(self._plan.label_names, self._plan.seed, number)
        return {label: current.wants[label]}

    def acceptable(self, result: WorkItemResult) -> WorkItemResult:
        """What of the next item's result may be accepted: no more pairs than there is room for, no query once more."""
        if self._plan.task.writes_queries and self._plan.asks("near_duplicate"):
            result = result.without_near_duplicates(self._queries)
        return result.without_surplus(self._room)

    def accept(self, result: WorkItemResult, hashes: Known[str]) -> WorkItemResult:
        """What stands of the next item's result among pairs of the content hashes `hashes`, which grow; recorded."""
        result = self.acceptable(result).without_known(hashes).with_few_texts(self.rejected)
        self.record(result)
        return result

    def record(self, result: WorkItemResult) -> None:
        """Enter what became of the next item."""
        item = self.work_item(self.recorded)
        self.recorded += 1
        self._asked.update(item.wants)
        self.accepted.update(result.accepted)
        self.rejected.update(result.rejected)
        self.samples += result.samples
        if self._plan.task.writes_queries:
            for one in result.pairs.values():
                self._queries.add(words_of(one.pair.sentence1))
        if result.lost and self._plan.pairs is None and item.attempts > 1:
            pairs = ((record.provenance.label, result.written(record.pair)) for record in result.pairs.values())
            again = replace(item, pass_number=item.pass_number + 1, attempts=item.attempts - 1, wants=dict(result.lost))
            self._lost.append(replace(again, given=result.given, earlier=(*item.earlier, *pairs)))
        if self.recorded == self.total:
            self._plan_next_pass()

    def _plan_next_pass(self) -> None:
        """All results so far are in: add the items that are still needed, or be done."""
        if self._plan.pairs is None:
            again, self._lost = self._lost, []
            self.done = not again
            if again:
                self._add_pass([replace(item, index=self.total + place) for place, item in enumerate(again)], {})
            return
        missing = {label: count for label in self._plan.label_names if (count := self._room(label)) > 0}
        # An item whose first sentence failed has no samples.
        left = self._plan.attempts * self.requested - max(self.samples, self.recorded)
        if not missing or left <= 0:
            self.done = True
            return
        each = {label: min(self._plan.pairs_per_label, count) for label, count in missing.items()}
        sentences = max(math.ceil(count / each[label] * self._boost(label)) for label, count in missing.items())
        affordable = max(1, left // sum(each.values()))
        self._add_pass(range(self.total, self.total + min(sentences, affordable)), each)

    def _boost(self, label: str) -> float:
        return min(MAX_BOOST, self._asked[label] / self.accepted[label]) if self.accepted[label] else MAX_BOOST

    def _add_pass(self, items: range | Sequence[WorkItem], wants: Mapping[str, int]) -> None:
        self._passes.append(_Pass(self.total, items, wants))
        self.total += len(items)
