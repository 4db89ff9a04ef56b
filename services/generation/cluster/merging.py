"""What becomes of results in their order: duplicates and surplus go, the rest lands as shards of pairs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from services.generation.cluster.writing import Run
from services.generation.jobs.progress import JobProgress
from services.generation.pairs.work_item import WorkItemResult, public_pairs, public_rejected
from shared.folder import write_table
from shared.known_texts import KnownTexts

PAIRS = "pairs"
"""The folder of the shards of pairs."""
STRINGS = ("sentence1", "sentence2", "label", "task", "teacher")
SCHEMA = pa.schema({name: pa.string() for name in STRINGS} | {"score": pa.float64(), "seed": pa.int64()})
EXAMPLES = 1000


class Merger:
    """Takes the shards of a run in order. Its counts are those of `progress`."""

    def __init__(self, run: Run, progress: JobProgress, hashes: KnownTexts) -> None:
        self._run, self._progress, self._hashes = run, progress, hashes
        self.shards: list[dict[str, Any]] = []
        """Of each shard of pairs, its file and counts; a shard without pairs has no file."""
        self.examples: list[dict[str, Any]] = []
        """The first pairs."""
        self.rejected: list[dict[str, Any]] = []
        """The first texts of each reason."""

    def merge(self, pass_number: int, shard: int, lines: Sequence[str]) -> None:
        """The results of the next shard. Raises `OSError`."""
        results = [WorkItemResult.model_validate_json(line) for line in lines]
        results = [self._progress.accept(result, self._hashes) for result in results]
        labels, reasons = Counter[str](), Counter[str]()
        for result in results:
            labels += result.accepted
            reasons += result.rejected
        counts = {"accepted_by_label": dict(labels), "rejected_by_reason": dict(reasons)}
        name = f"{PAIRS}/{pass_number:02}-{shard:06}.parquet"
        if labels:
            write_table(self._run.folder, name, self._table(results))
        self.shards.append({"file": name if labels else None, "pairs": labels.total(), **counts})
        self.rejected += public_rejected(results)
        if len(self.examples) < EXAMPLES:
            self.examples += public_pairs(results)

    def _table(self, results: Sequence[WorkItemResult]) -> Any:
        origin = {"task": self._run.plan.task.task_name, "teacher": self._run.common.teacher}
        seeds = [record.provenance.seed for result in results for record in result.pairs.values()]
        rows = [pair | origin | {"seed": seed} for pair, seed in zip(public_pairs(results), seeds, strict=True)]
        return pa.Table.from_pylist(rows, schema=SCHEMA)
