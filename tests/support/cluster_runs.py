"""What one machine writes for a plan, and a cluster's folder compared with it."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

from pyarrow import parquet

from services.generation.decoding.base import Engine
from services.generation.jobs.ordered_writer import OrderedWriter
from services.generation.jobs.progress import JobProgress
from services.generation.pairs.corpus import Corpus
from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.plan import Plan, ResolvedPlan
from services.generation.pairs.tasks import load_all_tasks
from services.generation.pairs.work_item import WorkItemResult, public_pairs
from shared.pair_shards import shard_files

SENTENCES = [f"word{n} word{n * 7 % 150} word{n * 3 % 150}." for n in range(36)]
TOO_LONG = " ".join(f"word{n % 150}" for n in range(260))
"""More tokens than the teacher reads."""
WIDE = {"top_k": 0, "top_p": 1.0, "max_tokens": 24}


def resolved(**fields: Any) -> ResolvedPlan:
    return Plan.model_validate({"seed": 3, "decoding": WIDE, **fields}).resolve(load_all_tasks(None))


def on_one_machine(engine: Engine, plan: ResolvedPlan) -> tuple[list[WorkItemResult], JobProgress]:
    """What one machine's command writes."""

    async def write() -> tuple[list[WorkItemResult], JobProgress]:
        corpus = Corpus(plan.inputs or ()) if plan.task.writes_queries else None
        progress, hashes, results = JobProgress(plan), set[str](), list[WorkItemResult]()
        writer = OrderedWriter(PairGenerator(engine), Job(plan, corpus=corpus), progress)
        while not progress.done:
            results += [progress.accept(result, hashes) for result in await writer.take(1)]
        await writer.stop()
        return results, progress

    return asyncio.run(write())


def pairs_in(out: Path) -> list[dict[str, Any]]:
    """All pairs of a folder in order, as a person sees them."""
    names = ("sentence1", "sentence2", "score", "label")
    rows = []
    for file, count in shard_files(out).items():
        table = parquet.read_table(file, columns=list(names))
        assert table.num_rows == count
        rows += table.to_pylist()
    return rows


def check(out: Path, results: list[WorkItemResult], progress: JobProgress) -> None:
    """A folder holds exactly what one machine wrote."""
    assert pairs_in(out) == public_pairs(results)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["accepted_by_label"] == dict(progress.accepted)
    assert manifest["rejected_by_reason"] == dict(progress.rejected)
    assert (manifest["samples"], manifest["state"]) == (progress.samples, progress.outcome)
    totals = Counter[str]()
    for shard in manifest["shards"] + manifest["shards_without_pairs"]:
        totals.update(shard["rejected_by_reason"])
    assert totals == progress.rejected
    assert not (out / "work").exists()
