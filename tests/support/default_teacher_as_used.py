"""Run by test_lockstep.py: the default teacher as it is used: in any company and on every task.

That is in bfloat16 where the CPU has it.
"""

import asyncio
import os

os.environ["HF_HUB_OFFLINE"] = "1"

from services.generation.decoding.base import Decoding, Sample
from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.jobs.progress import JobProgress
from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import load_all_tasks
from services.generation.pairs.work_item import WorkItemResult
from services.generation.settings import GenerationSettings
from shared import teacher
from shared.settings import Settings
from tests.generation.decoding.vllm.test_lockstep import complete_all, lanes

SENTENCES = [f"The {noun} is {verb} in the {place}." for noun in ("dog", "boy", "nurse", "train")
             for verb in ("waiting", "singing") for place in ("garden", "rain")]  # fmt: skip


async def main() -> None:
    """Fails with an AssertionError."""
    engine = VllmEngine(teacher.locate("default", Settings().cache_dir), GenerationSettings())
    await engine.start()
    await company_changes_no_sentence(engine)
    await every_task_is_understood(engine)
    assert engine.lockstep.replays == 0
    engine.stop()


async def company_changes_no_sentence(engine: VllmEngine) -> None:
    """Roundings would show what else is in the batch."""
    wanted = [
        Sample(lanes(label, sentence, 2), seed=number, decoding=Decoding())
        for number, (sentence, label) in enumerate((s, label) for s in SENTENCES for label in ("1", "0.5", "0"))
    ]
    together = await complete_all(engine, wanted)
    assert await complete_all(engine, wanted[::-1]) == together[::-1]
    assert [await engine.complete(sample) for sample in wanted[::8]] == together[::8]
    assert await complete_all(engine, wanted[5:12]) == together[5:12]


async def every_task_is_understood(engine: VllmEngine) -> None:
    """Each label of each task gets pairs, around sentences that the teacher wrote; one task in plain text too."""
    tasks, generator = load_all_tasks(None), PairGenerator(engine)
    plans = [Plan(task=task.task_name, num_inputs=4) for task in tasks if task.writes_pairs]
    for plan in (*plans, Plan(task="sts", num_inputs=4, prompt_form="plain")):
        job = Job(plan.resolve(tasks))
        progress = JobProgress(job.plan)
        results: list[WorkItemResult] = await asyncio.gather(
            *(generator.write(job, progress.work_item(index)) for index in range(progress.total))
        )
        records = [record for result in results for record in result.pairs.values()]
        print(plan.task, plan.prompt_form, *(f"\n  {one.provenance.label}: {one.pair}" for one in records[:3]))
        assert {one.provenance.label for one in records} == set(job.task.labels), (plan.task, plan.prompt_form)
        assert all(one.pair.score == job.task.labels[one.provenance.label].score for one in records)


asyncio.run(main())
