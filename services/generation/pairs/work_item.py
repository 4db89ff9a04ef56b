"""The unit in which pairs are written: one given sentence with all its labels, and what became of it."""

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, field_validator

from services.generation.pairs.comparison import words_of
from shared.pairs import Pair, PairRecord

Value = TypeVar("Value", contravariant=True)


class Known(Protocol[Value]):
    """What a set is asked for here."""

    def __contains__(self, value: object, /) -> bool:
        """Whether it was added."""

    def add(self, value: Value, /) -> object:
        """From now on it is in."""


@dataclass(frozen=True)
class WorkItem:
    """What to write for one first sentence."""

    index: int
    """Its place among all the job's work items: results are recorded in this order."""
    number: int
    """Which first sentence of the job it is about; seeds depend on it."""
    pass_number: int
    wants: Mapping[str, int]
    """Pairs to write by label."""
    attempts: int
    """How often each is tried."""
    given: str | None = None
    """The first sentence, or the passage, unless the teacher has to write it."""
    earlier: tuple[tuple[str, str], ...] = ()
    """(label, written sentence) that an earlier pass has for this given one."""


SHARED = ("dataset", "task", "job", "teacher")  # of a pair's provenance: the same for all pairs of a job


MAX_TEXTS_PER_REASON = 100
"""So many rejected texts of each reason are kept for a job."""


class RejectedText(BaseModel, frozen=True):
    """A sentence that a filter threw away."""

    reason: str
    text: str
    label: str | None = None
    """None for a first sentence."""


class WorkItemResult(BaseModel):
    """What became of a work item: one JSON object in Redis and in the command's journal."""

    sentence1: str | None = None
    sentence2: str | None = None
    """The passage, where that is given and sentence 1 is written."""
    pairs: dict[str, PairRecord] = {}
    """By slot, the pair's place in the work item: label and number."""
    rejected: Counter[str] = Counter()
    """Samples by the reason for which they were thrown away."""
    rejected_texts: list[RejectedText] = []
    """The first ones of each reason in the job."""
    samples: int = 0
    """Second sentences sampled."""
    lost: Counter[str] = Counter()
    """By label, how many of its pairs the dataset had already."""

    @property
    def accepted(self) -> Counter[str]:
        """Pairs by label."""
        return Counter(record.provenance.label for record in self.pairs.values())

    @property
    def given(self) -> str | None:
        """The sentence that partners, or the passage that queries, were asked for; None if it could not be written."""
        return self.sentence1 if self.sentence2 is None else self.sentence2

    def written(self, pair: Pair) -> str:
        """That sentence of a pair which the teacher wrote for the given one."""
        return pair.sentence2 if self.sentence2 is None else pair.sentence1

    def without_surplus(self, room: Callable[[str], int]) -> "WorkItemResult":
        """This result without the pairs for which the job has no room any more, counted as `surplus`."""
        accepted: Counter[str] = Counter()
        pairs = {}
        for slot, record in self.pairs.items():
            label = record.provenance.label
            if accepted[label] < room(label):
                accepted[label] += 1
                pairs[slot] = record
        surplus = Counter(surplus=len(self.pairs) - len(pairs))
        return self.model_copy(update={"pairs": pairs, "rejected": self.rejected + surplus})

    def without_near_duplicates(self, seen: Container[frozenset[str]]) -> "WorkItemResult":
        """This result without the queries whose words are those of one that the job has already."""
        pairs = {slot: one for slot, one in self.pairs.items() if words_of(one.pair.sentence1) not in seen}
        texts = [
            RejectedText(reason="near_duplicate", text=one.pair.sentence1, label=one.provenance.label)
            for slot, one in self.pairs.items()
            if slot not in pairs
        ]
        rejected = self.rejected + Counter(near_duplicate=len(texts))
        update = {"pairs": pairs, "rejected": rejected, "rejected_texts": [*self.rejected_texts, *texts]}
        return self.model_copy(update=update)

    def reject(self, reason: str, text: str, label: str | None = None) -> None:
        """Count a sample that was thrown away, and keep its text."""
        self.rejected[reason] += 1
        self.rejected_texts.append(RejectedText(reason=reason, text=text, label=label))

    def with_few_texts(self, before: Mapping[str, int]) -> "WorkItemResult":
        """This result with only those rejected texts that a job keeps, which has rejected `before` by reason so far."""
        counts, texts = Counter(before), []
        for rejected in self.rejected_texts:
            counts[rejected.reason] += 1
            if counts[rejected.reason] <= MAX_TEXTS_PER_REASON:
                texts.append(rejected)
        return self.model_copy(update={"rejected_texts": texts})

    def without_known(self, hashes: Known[str]) -> "WorkItemResult":
        """This result as the pair stream would answer it: a pair of the content hashes `hashes` is a duplicate.

        Adds the hashes of the others.
        """
        answers: list[bool | None] = []
        for record in self.pairs.values():
            answers.append(record.pair.content_hash not in hashes)
            hashes.add(record.pair.content_hash)
        return self.with_answers(iter(answers))

    def with_answers(self, answers: Iterator[bool | None]) -> "WorkItemResult":
        """This result once it is known which pairs are new (True) and which the dataset had already (False).

        `answers` has one for each pair, in order. None: the pair was not offered, because the job was cancelled.
        """
        new = {slot: next(answers) for slot in self.pairs}
        pairs = {slot: record for slot, record in self.pairs.items() if new[slot]}
        lost = Counter(record.provenance.label for slot, record in self.pairs.items() if new[slot] is False)
        texts = [
            RejectedText(reason="duplicate", text=self.written(record.pair), label=record.provenance.label)
            for slot, record in self.pairs.items()
            if new[slot] is False
        ]
        rejected = self.rejected + Counter(duplicate=lost.total())
        update = {"pairs": pairs, "rejected": rejected, "rejected_texts": [*self.rejected_texts, *texts], "lost": lost}
        return self.model_copy(update=update)

    def to_json(self) -> str:
        """As it is kept. What all pairs of a job share stands with the job."""
        return self.model_dump_json(exclude={"pairs": {"__all__": {"provenance": set(SHARED)}}})

    @field_validator("pairs", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        """The pairs as they are kept, with nothing for what they share."""
        if isinstance(value, list):  # before 0.2 a pair was one flat row; retired: remove in 0.3
            value = {row["slot"]: {"pair": {name: row[name] for name in Pair.model_fields}, "provenance": row}
                     for row in value}  # fmt: skip
        shared = dict.fromkeys(SHARED, "")
        return {
            slot: record if isinstance(record, PairRecord) else {**record, "provenance": shared | record["provenance"]}
            for slot, record in value.items()
        }


def public_pairs(results: Sequence[WorkItemResult]) -> list[dict[str, Any]]:
    """The results' pairs as people see them, in order."""
    records = [record for result in results for record in result.pairs.values()]
    return [{**record.pair.model_dump(), "label": record.provenance.label} for record in records]


def public_rejected(results: Sequence[WorkItemResult]) -> list[dict[str, Any]]:
    """The results' rejected texts as people see them, in order."""
    return [
        {"reason": one.reason, "label": one.label, **_given(result, one), "text": one.text}
        for result in results
        for one in result.rejected_texts
    ]


def _given(result: WorkItemResult, rejected: RejectedText) -> dict[str, str | None]:
    if result.sentence2 is not None:
        return {"sentence2": result.sentence2}
    return {"sentence1": None if rejected.label is None else result.sentence1}
