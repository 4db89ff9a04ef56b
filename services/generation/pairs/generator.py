"""Writes one work item: for a given sentence, a partner of each label: ask the engine, filter, ask again.

A result depends on nothing but the plan and the item: in any order, on any machine, after any crash, the same pairs.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.generation.decoding.base import Decoding, Engine, NoChatTemplate, PromptTooLong, Sample
from services.generation.pairs import prompts
from services.generation.pairs.comparison import normalised, words_of
from services.generation.pairs.corpus import Corpus
from services.generation.pairs.filters import ALL, Draft, reject
from services.generation.pairs.plan import InvalidPlan, Plan, ResolvedPlan
from services.generation.pairs.prompts import Form, Prompt
from services.generation.pairs.seeds import in_turn, sample_seed
from services.generation.pairs.work_item import WorkItem, WorkItemResult
from shared.pairs import Pair, PairRecord, Provenance

POOLS = Path(__file__).with_name("pools")
SAME_EXEMPLARS = 32
"""So many first sentences in a row share their exemplars, so that their prompts share a cached prefix."""

_Slot = tuple[str, int]
"""A pair's place in a work item: label and number."""
_Written = tuple[str, str]
"""Label and written sentence of a pair that a given sentence has already."""


@dataclass(frozen=True)
class Job:
    """What all work items of a job share: the plan, and what their pairs' provenance says."""

    plan: ResolvedPlan
    id: str = ""
    """Also the client for whose samples the engine takes turns."""
    dataset: str = ""
    teacher: str = ""
    corpus: Corpus | None = None
    """All passages, where queries are written."""


class PairGenerator:
    """Writes work items with one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        texts = [(POOLS / f"{name}.txt").read_text(encoding="utf-8") for name in ("topics", "genres")]
        self._topics, self._genres = (text.split("\n")[:-1] for text in texts)
        self._can_chat: bool | None = None
        """Whether the teacher has a chat template, once that has been asked for."""

    def items_in_flight(self, job: Job) -> int:
        """How many work items to write at one time so that the engine is full and a few samples wait."""
        plan = job.plan
        lanes = [1 + plan.contrast + len(plan.task.labels[label].counter_labels) for label in plan.label_names]
        of_an_item = max(lanes) if plan.draws_label else sum(lanes)
        return max(2, 2 * self._engine.capacity // (of_an_item * plan.pairs_per_label))

    def check_form(self, plan: Plan) -> None:
        """Raises `InvalidPlan` for the chat form with a teacher that has none; while the engine starts nobody knows."""
        if plan.prompt_form == "chat" and self._engine.state == "ok":
            try:
                self._engine.render_chat([{"role": "user", "content": "?"}, {"role": "assistant", "content": '"'}])
            except NoChatTemplate as error:
                raise InvalidPlan("prompt_form", str(error)) from None

    async def write(self, job: Job, item: WorkItem) -> WorkItemResult:
        """Write an item. Raises `EngineDead` or `NoChatTemplate`."""
        result = WorkItemResult()
        if job.plan.task.writes_queries:
            result.sentence2 = _passage(job, item)
        else:
            result.sentence1 = item.given or await self._sentence1(job, item, result)
        given = result.given
        if given is None:
            return result
        missing = [(label, number) for label, count in item.wants.items() for number in range(count)]
        accepted = list(item.earlier)
        for attempt in range(item.attempts):
            result.samples += len(missing)
            # All labels of a sentence at one time: a counter-label's prompt is another label's own.
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._partner(job, item, label, number, attempt, given))
                    for label, number in missing
                ]
            # Filtered in the slots' order, whichever came first, so that the outcome does not depend on the engine.
            drafts = zip(missing, [task.result() for task in tasks], strict=True)
            missing = [slot for slot, draft in drafts if not self._keep(job, result, slot, *draft, accepted)]
            if not missing:
                break
        result.pairs = dict(sorted(result.pairs.items()))
        return result

    async def _sentence1(self, job: Job, item: WorkItem, result: WorkItemResult) -> str | None:
        plan, prompt = job.plan, self._sentence1_prompt(job, item.number)
        for attempt in range(plan.attempts):
            seed = sample_seed(plan.seed, job.plan.task.task_name, "sentence1", item.number, attempt)
            draft = await self._draft(job, [prompt], seed, plan.sentence1_decoding)
            reason = _rejection(job, draft)
            if reason is None and draft is not None:
                return draft.text
            result.reject(reason or "prompt_too_long", draft.text if draft else "")
        return None

    def _sentence1_prompt(self, job: Job, number: int) -> Prompt:
        plan, task = job.plan, job.plan.task
        if plan.sentence1_task is not None:
            labels = list(plan.sentence1_task.labels)
            return prompts.sentence1_prompt(plan.sentence1_task, labels[number % len(labels)])
        topics, genres = (self._topics if plan.topics is None else plan.topics), plan.genres or self._genres
        if not topics or task.sentence1 is None:
            # The paper's x1: the labels' instructions in turn.
            label = plan.label_names[number % len(plan.label_names)]
            exemplars = self._exemplars(job, len(task.labels[label].exemplars), number)
            return prompts.sentence1_prompt(task, label, exemplars)
        exemplars = self._exemplars(job, len(task.sentence1.exemplars), number)
        topic, genre = in_turn(topics, plan.seed, number), in_turn(genres, plan.seed + 1, number)
        return prompts.topical_prompt(task, topic, genre, exemplars)

    async def _partner(
        self, job: Job, item: WorkItem, label: str, number: int, attempt: int, given: str
    ) -> tuple[int, Draft | None]:
        """A draft for pair `number` of a label, and its seed."""
        plan, task = job.plan, job.plan.task
        seed = sample_seed(plan.seed, task.task_name, label, item.number, item.pass_number, number, attempt)
        pool = max(len(task.labels[name].exemplars) for name in (label, *task.labels[label].counter_labels))
        neighbour = await asyncio.to_thread(job.corpus.neighbour, given) if plan.contrast and job.corpus else None
        lanes = prompts.lanes_for(task, label, given, self._exemplars(job, pool, item.number), neighbour)
        return seed, await self._draft(job, lanes, seed, plan.decoding, given, task.labels[label].score)

    def _keep(
        self, job: Job, result: WorkItemResult, slot: _Slot, seed: int, draft: Draft | None, accepted: list[_Written]
    ) -> bool:
        """Accept a draft, or count why not."""
        (label, number), task = slot, job.plan.task
        reason = _rejection(job, draft, label, accepted)
        if reason is not None or draft is None:
            result.reject(reason or "prompt_too_long", draft.text if draft else "", label)
            return False
        accepted.append((label, draft.text))
        first, second = (draft.text, draft.given) if draft.is_query else (draft.given, draft.text)
        pair = Pair(sentence1=first, sentence2=second, score=task.labels[label].score)
        provenance = Provenance(
            dataset=job.dataset, task=task.task_name, label=label, job=job.id, teacher=job.teacher, seed=seed
        )
        result.pairs[f"{label}/{number}"] = PairRecord(pair=pair, provenance=provenance)
        return True

    async def _draft(
        self,
        job: Job,
        lanes: Sequence[Prompt],
        seed: int,
        decoding: Decoding,
        given: str = "",
        score: float = 1.0,
    ) -> Draft | None:
        """What the engine writes; None if the prompts are too long for it."""
        chat = self._chats(job.plan.prompt_form, lanes[0], bool(given))
        texts = tuple(self._engine.render_chat(lane.turns) if chat else lane.text for lane in lanes)
        try:
            completion = await self._engine.complete(Sample(texts, seed, decoding, templated=chat, client=job.id))
        except PromptTooLong:
            return None
        is_query = job.plan.task.writes_queries
        return Draft(completion.text, completion.end, given, score, lanes[0], is_query)

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
        seed = sample_seed(job.plan.seed, job.plan.task.task_name, "exemplars", number // SAME_EXEMPLARS)
        return tuple(random.Random(seed).sample(range(pool), min(job.plan.exemplars, pool)))


def _passage(job: Job, item: WorkItem) -> str | None:
    """What a query is asked for; None if it has been deleted from the dataset since it was drawn."""
    if job.corpus is None:
        return item.given
    passage = item.given or job.corpus.drawn(job.plan.seed, item.number)
    return passage if passage in job.corpus else None


def _rejection(job: Job, draft: Draft | None, label: str = "", accepted: Sequence[_Written] = ()) -> str | None:
    """Why a draft can't stay beside what was accepted for its given sentence."""
    if draft is None:
        return "prompt_too_long"
    plan = job.plan
    reason = reject(draft, ALL if plan.filters is None else plan.filters)
    if reason is not None:
        return reason
    form = words_of if draft.is_query else normalised
    text = form(draft.text)
    labels = {label if draft.is_query else other for other, written in accepted if form(written) == text}
    if plan.asks("repeat") and label in labels:
        return "repeat"
    if plan.asks("label_conflict") and labels - {label}:
        return "label_conflict"
    return _rejection_by_corpus(plan, draft, job.corpus) if job.corpus else None


def _rejection_by_corpus(plan: ResolvedPlan, draft: Draft, corpus: Corpus) -> str | None:
    better, as_good = corpus.standing(draft.text, draft.given)
    if plan.asks("round_trip") and better >= plan.round_trip_k:
        return "round_trip"
    return "vague" if plan.asks("vague") and better + as_good >= plan.round_trip_k else None
