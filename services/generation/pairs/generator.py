"""One unit: a first sentence and, for each label, a partner: ask the engine, filter, ask again if rejected.

A unit depends on nothing but the plan and its assignment: units can be made in any order, at the same time, on other
machines or again after a crash, with the same pairs.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from services.generation.decoding.base import Decoding, Engine, NoChatTemplate, PromptTooLong, Sample
from services.generation.jobs.progress import WorkItem
from services.generation.pairs import prompts
from services.generation.pairs.filters import ALL, Draft, normalised, reject
from services.generation.pairs.plan import Plan
from services.generation.pairs.prompts import Form, Prompt
from services.generation.pairs.tasks import TaskSpec
from shared.pairs import Pair

POOLS = Path(__file__).with_name("pools")
SAME_EXEMPLARS = 32
"""So many first sentences in a row share their exemplars, so that their prompts share a cached prefix."""


@dataclass(frozen=True)
class Written:
    """A pair that passed the filters. `slot` names its place in the unit: label and number."""

    slot: str
    label: str
    seed: int
    pair: Pair


@dataclass
class WorkItemResult:
    """What became of one first sentence."""

    sentence1: str | None = None
    written: list[Written] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    """Samples by the reason for which they were rejected."""
    samples: int = 0
    """Second sentences sampled."""


@dataclass(frozen=True)
class Job:
    """What all units of a job share."""

    plan: Plan
    """Written out."""
    client: str = ""
    """Whose samples they are, for taking turns."""

    @property
    def task(self) -> TaskSpec:
        """What the labels ask for."""
        return self.plan.spec


class PairGenerator:
    """Writes units with one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._topics, self._genres = _pool("topics"), _pool("genres")
        self._can_chat: bool | None = None
        """Whether the teacher has a chat template, once that has been asked for."""

    def units_in_flight(self, job: Job) -> int:
        """How many units to make at one time so that the engine is full and a few samples wait."""
        labels = job.plan.labels_of(job.task)
        lanes = sum(1 + len(job.task.labels[label].counter_labels) for label in labels) * job.plan.pairs_per_label
        return max(2, 2 * self._engine.capacity // lanes)

    async def write(self, job: Job, assignment: WorkItem) -> WorkItemResult:
        """Make a unit. Raises `EngineDead` or `NoChatTemplate`."""
        unit = WorkItemResult(assignment.sentence1)
        if unit.sentence1 is None:
            unit.sentence1 = await self._sentence1(job, assignment, unit)
        if unit.sentence1 is None:
            return unit
        missing = [(label, nth) for label, count in assignment.wants.items() for nth in range(count)]
        taken = list(assignment.known)
        for attempt in range(assignment.attempts):
            # All labels of a sentence at one time: a counter-label's prompt is another label's own.
            drafts = await self._drafts(job, assignment, unit, missing, attempt)
            # Judged in the slots' order, whichever came first, so that the outcome does not depend on the engine.
            judged = list(zip(missing, drafts, strict=True))
            missing = [slot for slot, draft in judged if not self._keep(job, unit, slot, draft, taken)]
            if not missing:
                break
        unit.written.sort(key=lambda written: written.slot)
        return unit

    # ---- sentence 1

    async def _sentence1(self, job: Job, assignment: WorkItem, unit: WorkItemResult) -> str | None:
        plan, prompt = job.plan, self._sentence1_prompt(job, assignment.number)
        for attempt in range(plan.attempts):
            seed = sample_seed(plan.seed, job.task.task_name, "sentence1", assignment.number, attempt)
            draft = await self._draft(job, [prompt], seed, plan.sentence1_decoding)
            reason = _rejection(plan, draft)
            if reason is None and draft is not None:
                return draft.text
            unit.rejected[reason or "prompt_too_long"] += 1
        return None

    def _sentence1_prompt(self, job: Job, number: int) -> Prompt:
        plan, task = job.plan, job.task
        labels = plan.labels_of(task)
        first = plan.sentence1_spec
        if first is not None:
            names = list(first.labels)
            return prompts.sentence1_prompt(first, names[number % len(names)])
        topics, genres = (self._topics if plan.topics is None else plan.topics), plan.genres or self._genres
        if not topics or task.sentence1 is None:
            # The paper's x1: the labels' instructions in turn.
            label = labels[number % len(labels)]
            return prompts.sentence1_prompt(
                task, label, self._exemplars(job, len(task.labels[label].exemplars), number)
            )
        exemplars = self._exemplars(job, len(task.sentence1.exemplars), number)
        topic, genre = _in_turn(topics, plan.seed, number), _in_turn(genres, plan.seed + 1, number)
        return prompts.topical_prompt(task, topic, genre, exemplars)

    # ---- sentence 2

    async def _drafts(
        self, job: Job, assignment: WorkItem, unit: WorkItemResult, slots: Sequence[tuple[str, int]], attempt: int
    ) -> list[tuple[int, Draft | None]]:
        """One draft a slot with its seed, all at one time; None for a prompt that is too long."""
        plan, task, sentence1 = job.plan, job.task, unit.sentence1 or ""
        unit.samples += len(slots)

        async def draft(label: str, nth: int) -> tuple[int, Draft | None]:
            pool = max(len(task.labels[name].exemplars) for name in (label, *task.labels[label].counter_labels))
            lanes = prompts.lanes_for_sentence2(task, label, sentence1, self._exemplars(job, pool, assignment.number))
            seed = sample_seed(plan.seed, task.task_name, label, assignment.number, assignment.wave, nth, attempt)
            return seed, await self._draft(job, lanes, seed, plan.decoding, sentence1)

        async with asyncio.TaskGroup() as together:
            tasks = [together.create_task(draft(label, nth)) for label, nth in slots]
        return [task_.result() for task_ in tasks]

    def _keep(
        self,
        job: Job,
        unit: WorkItemResult,
        slot: tuple[str, int],
        drawn: tuple[int, Draft | None],
        taken: list[tuple[str, str]],
    ) -> bool:
        """Accept a draft, or count why not. `taken`: (label, sentence 2) of this first sentence so far."""
        (label, nth), (seed, draft) = slot, drawn
        reason = self._why_not(job.plan, label, draft, taken)
        if reason is not None or draft is None:
            unit.rejected[reason or "prompt_too_long"] += 1
            return False
        taken.append((label, draft.text))
        pair = Pair(sentence1=draft.sentence1, sentence2=draft.text, score=job.task.labels[label].score)
        unit.written.append(Written(f"{label}/{nth}", label, seed, pair))
        return True

    def _why_not(self, plan: Plan, label: str, draft: Draft | None, taken: list[tuple[str, str]]) -> str | None:
        reason = _rejection(plan, draft)
        if reason is not None or draft is None:
            return reason
        text = normalised(draft.text)
        same = {other for other, sentence2 in taken if normalised(sentence2) == text}
        if plan.asks("repeat") and label in same:
            return "repeat"
        return "label_conflict" if plan.asks("label_conflict") and same - {label} else None

    # ---- both

    async def _draft(
        self, job: Job, lanes: Sequence[Prompt], seed: int, decoding: Decoding, sentence1: str = ""
    ) -> Draft | None:
        """What the engine writes; None if the prompts are too long for it."""
        chat = self._chats(job.plan.prompt_form, lanes[0], bool(sentence1))
        texts = tuple(self._engine.render_chat(lane.turns) if chat else lane.text for lane in lanes)
        try:
            completion = await self._engine.complete(Sample(texts, seed, decoding, templated=chat, client=job.client))
        except PromptTooLong:
            return None
        shown = frozenset(normalised(sentence) for sentence in lanes[0].sentences)
        return Draft(completion.text, completion.end, sentence1, shown)

    def _chats(self, form: Form, prompt: Prompt, second: bool) -> bool:
        """Whether a prompt is asked as a chat. `auto` was measured on second sentences and is for them alone."""
        if form == "auto" and second and self._can_chat is None:
            try:
                self._can_chat = bool(self._engine.render_chat(prompt.turns))
            except NoChatTemplate:
                self._can_chat = False
        return form == "chat" or (form == "auto" and second and bool(self._can_chat))

    def _exemplars(self, job: Job, pool: int, number: int) -> tuple[int, ...]:
        """Which exemplars a prompt shows: places in a pool."""
        seed = sample_seed(job.plan.seed, job.task.task_name, "exemplars", number // SAME_EXEMPLARS)
        return prompts.draw_exemplars(pool, job.plan.exemplars, seed)


def _rejection(plan: Plan, draft: Draft | None) -> str | None:
    """Why a draft can't stay by itself, whatever else was written."""
    if draft is None:
        return "prompt_too_long"
    return reject(draft, ALL if plan.filters is None else plan.filters)


def sample_seed(*parts: object) -> int:
    """63 bits that depend on every part and on nothing else."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _in_turn(pool: Sequence[str], seed: int, number: int) -> str:
    """Item `number` of an endless list: the pool again and again, each time in another order of the seed's."""
    turn, place = divmod(number, len(pool))
    return pool[_order(len(pool), seed, turn)[place]]


@lru_cache(maxsize=64)
def _order(size: int, seed: int, turn: int) -> list[int]:
    return random.Random(sample_seed(seed, "order", turn)).sample(range(size), size)


def _pool(name: str) -> list[str]:
    return (POOLS / f"{name}.txt").read_text(encoding="utf-8").split("\n")[:-1]
