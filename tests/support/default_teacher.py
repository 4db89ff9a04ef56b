"""Run by test_lockstep.py: the default teacher, exact in float32, and as it is used: in any company, on every task.

`python -m tests.support.default_teacher DTYPE`. Used is bfloat16 where the CPU has it, float32 where it hasn't: a
second process is needed only where the two differ.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "0")  # see shared.process.disable_openmp_spinning

import torch

from services.generation.decoding.base import Decoding, Sample
from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.jobs.progress import JobProgress
from services.generation.pairs.corpus import Corpus
from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import TaskSpec, load_all_tasks
from services.generation.pairs.work_item import WorkItemResult
from services.generation.settings import GenerationSettings
from shared import teacher
from shared.precision import dtype_for
from shared.settings import Settings
from tests.support.decoding import STS, assert_exact, complete_all, lanes, recorded_draws, samples

SENTENCES = [f"The {noun} is {verb} in the garden." for noun in ("dog", "nurse") for verb in ("waiting", "singing")]
CORPUS = Path(__file__).parents[2] / "scripts" / "demo_corpus.jsonl"
PASSAGES = [json.loads(line)["text"] for line in CORPUS.read_text(encoding="utf-8").splitlines()[:6]]


async def main(dtype: str) -> None:
    """Fails with an AssertionError."""
    model = teacher.locate("default", Settings().cache_dir)
    engine = VllmEngine(model, GenerationSettings.model_validate({"dtype": dtype}))
    await engine.start()
    if dtype == "float32":
        await every_step_is_exact(engine, model)
    if dtype == dtype_for("auto", torch.cuda.is_available()):
        await company_changes_no_sentence(engine)
        await every_task_is_understood(engine)
    assert engine.lockstep.replays == 0
    engine.stop()


async def every_step_is_exact(engine: VllmEngine, model: str) -> None:
    """Every step of 18 sentences, with exemplars, against transformers."""
    wanted = samples(Decoding(max_tokens=12), exemplars=1)
    with recorded_draws() as recorder:
        completions = await complete_all(engine, wanted)
    steps = assert_exact(model, wanted, recorder)
    assert steps == sum(completion.tokens for completion in completions)
    assert steps > 100


async def company_changes_no_sentence(engine: VllmEngine) -> None:
    """Roundings would show what else is in the batch."""
    wanted = [
        Sample(lanes(label, sentence, 2), seed=number, decoding=Decoding())
        for number, (sentence, label) in enumerate((s, label) for s in SENTENCES for label in STS.labels)
    ]
    together = await complete_all(engine, wanted)
    assert await complete_all(engine, wanted[::-1]) == together[::-1]
    assert [await engine.complete(sample) for sample in wanted[::4]] == together[::4]
    assert await complete_all(engine, wanted[2:7]) == together[2:7]


async def every_task_is_understood(engine: VllmEngine) -> None:
    """Each label of each task gets pairs, around sentences that the teacher wrote; one task in plain text too."""
    tasks = load_all_tasks(None)
    plans = [_plan(task) for task in tasks.values() if task.writes_pairs]
    plans.append(Plan(task="sts", num_inputs=1, prompt_form="plain"))
    jobs = [Job(plan.resolve(tasks), corpus=Corpus(plan.inputs) if plan.inputs else None) for plan in plans]
    await asyncio.gather(*(every_label_gets_pairs(engine, job) for job in jobs))


def _plan(task: TaskSpec) -> Plan:
    if task.writes_queries:
        return Plan(task=task.task_name, inputs=PASSAGES, labels=[*task.labels])
    return Plan(task=task.task_name, num_inputs=1)


async def every_label_gets_pairs(engine: VllmEngine, job: Job) -> None:
    """All pairs of a job, in the batch with those of others."""
    generator, progress = PairGenerator(engine), JobProgress(job.plan)
    results: list[WorkItemResult] = await asyncio.gather(
        *(generator.write(job, progress.work_item(index)) for index in range(progress.total))
    )
    records = [record for result in results for record in result.pairs.values()]
    print(job.plan.task.task_name, *(f"\n  {one.provenance.label}: {one.pair}" for one in records[:3]))
    assert {one.provenance.label for one in records} == set(job.plan.task.labels), (job.plan.task.task_name, job.plan)
    assert all(one.pair.score == job.plan.task.labels[one.provenance.label].score for one in records)


asyncio.run(main(sys.argv[1]))
