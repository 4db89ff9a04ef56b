"""From a task and sentences to pairs: for every sentence 1 and label, ask the engine, filter, ask again if rejected.

The work is cut into units, one a sentence 1 with all its labels. A unit depends on nothing but the plan and its number,
so units can be made in any order, at the same time, or again after a crash, with the same pairs.
"""

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from services.generation.engine import Decoding, Engine, PromptTooLong, Sample
from services.generation.filters import reject
from services.generation.prompts import lanes_for_sentence2, sentence1_prompt
from services.generation.tasks import TaskSpec
from shared.pairs import Pair, Sentence

MAX_INPUTS = 100_000


def _fits_into_quotes(sentence: str) -> str:
    if '"' in sentence:
        raise ValueError("must not hold double quotes (they end a sentence in the prompt); use single ones")
    return sentence


Input = Annotated[Sentence, AfterValidator(_fits_into_quotes)]


class Plan(BaseModel):
    """What a job shall write. Also the body of `POST /generate`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    task: str = "sts"
    inputs: Annotated[list[Input] | None, Field(min_length=1, max_length=MAX_INPUTS)] = None
    """Sentences to write partners for."""
    num_inputs: Annotated[int | None, Field(ge=1, le=MAX_INPUTS)] = None
    """Instead of `inputs`: how many first sentences the teacher shall write itself."""
    labels: Annotated[list[str] | None, Field(min_length=1)] = None
    """Which of the task's labels; all by default."""
    pairs_per_label: Annotated[int, Field(ge=1, le=100)] = 1
    """Pairs wanted for each sentence and label."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """How often a pair is tried before it is given up."""
    exemplars: Annotated[int, Field(ge=0, le=16)] = 2
    """How many of the label's exemplars the prompt shows (as many as the task has)."""
    decoding: Decoding = Decoding()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42

    @model_validator(mode="after")
    def _one_source_of_sentences(self) -> Self:
        if (self.inputs is None) == (self.num_inputs is None):
            raise ValueError("give either inputs (sentences) or num_inputs (how many the teacher shall write)")
        return self

    @property
    def units(self) -> int:
        """How many first sentences there are."""
        return len(self.inputs) if self.inputs is not None else self.num_inputs or 0

    def labels_of(self, task: TaskSpec) -> list[str]:
        """The labels to write. Raises KeyError with the first one that the task doesn't have."""
        for label in self.labels or ():
            if label not in task.labels:
                raise KeyError(label)
        return list(dict.fromkeys(self.labels)) if self.labels else list(task.labels)

    def pairs_requested(self, task: TaskSpec) -> int:
        """How many pairs are asked for."""
        return self.units * len(self.labels_of(task)) * self.pairs_per_label


@dataclass(frozen=True)
class Written:
    """A pair that passed the filters. `slot` names its place in the plan: unit, label, number."""

    slot: str
    label: str
    seed: int
    pair: Pair


@dataclass
class Unit:
    """What became of one first sentence."""

    number: int
    written: list[Written] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    """Samples by the reason for which they were rejected."""


class PairGenerator:
    """Writes the units of plans with one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def units_in_flight(self, task: TaskSpec, plan: Plan) -> int:
        """How many units to make at one time so that the engine is full and a few samples wait."""
        labels = plan.labels_of(task)
        lanes = sum(1 + len(task.labels[label].counter_labels) for label in labels) * plan.pairs_per_label
        return max(2, 2 * self._engine.capacity // lanes)

    async def write(self, task: TaskSpec, plan: Plan, number: int) -> Unit:
        """Make unit `number` of the plan. Raises `EngineDead`."""
        unit = Unit(number)
        sentence1 = plan.inputs[number] if plan.inputs is not None else await self._sentence1(task, plan, unit)
        if sentence1 is None:
            return unit
        slots = [(label, nth) for label in plan.labels_of(task) for nth in range(plan.pairs_per_label)]
        # All labels of a sentence at one time: a counter-label's prompt is another label's own, and shares its prefix.
        async with asyncio.TaskGroup() as together:
            for label, nth in slots:
                together.create_task(self._pair(task, plan, unit, sentence1, label, nth))
        unit.written.sort(key=lambda written: written.slot)
        return unit

    async def _sentence1(self, task: TaskSpec, plan: Plan, unit: Unit) -> str | None:
        """The paper's x1: written from the prompt before sentence 1, the labels' instructions in turn."""
        labels = plan.labels_of(task)
        label = labels[unit.number % len(labels)]
        prompts = (sentence1_prompt(task.labels[label], plan.exemplars),)
        # Without top-k: first sentences should differ from one another.
        decoding = plan.decoding.model_copy(update={"top_k": 0})
        for attempt in range(plan.attempts):
            seed = sample_seed(plan.seed, task.task_name, "sentence1", unit.number, attempt)
            sentence = await self._sample(unit, "", Sample(prompts, seed, decoding))
            if sentence is not None:
                return sentence
        return None

    async def _pair(self, task: TaskSpec, plan: Plan, unit: Unit, sentence1: str, label: str, nth: int) -> None:
        prompts = lanes_for_sentence2(task, label, sentence1, plan.exemplars)
        for attempt in range(plan.attempts):
            seed = sample_seed(plan.seed, task.task_name, label, unit.number, nth, attempt)
            sentence2 = await self._sample(unit, sentence1, Sample(prompts, seed, plan.decoding))
            if sentence2 is not None:
                pair = Pair(sentence1=sentence1, sentence2=sentence2, score=task.labels[label].score)
                unit.written.append(Written(f"{unit.number}/{label}/{nth}", label, seed, pair))
                return

    async def _sample(self, unit: Unit, sentence1: str, sample: Sample) -> str | None:
        """One sentence, or None with the reason counted."""
        try:
            completion = await self._engine.complete(sample)
        except PromptTooLong:
            unit.rejected["prompt_too_long"] += 1
            return None
        reason = reject(sentence1, completion.text) if completion.closed else "unclosed"
        if reason is not None:
            unit.rejected[reason] += 1
            return None
        return completion.text


def sample_seed(*parts: object) -> int:
    """63 bits that depend on every part and on nothing else."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
