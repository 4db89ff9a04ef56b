"""A student that is no table learns from queries: in-batch negatives and a hard one for each, mined from the corpus."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from services.trainer.dataset.arrow import read_table
from services.trainer.models import encoder
from services.trainer.progress import Progress
from services.trainer.training import fit
from services.trainer.training.distributed import ProcessGroup
from services.trainer.training.fit import ReportProgress
from services.trainer.training.negatives import write_triplets
from services.trainer.training.recipe import Recipe
from services.trainer.training.retrieval import Corpus

ROWS, CHECKPOINTS = "queries.arrow", "query-checkpoints"
MOST_QUERIES = 2_000
"""That are trained on: with a student of 22M parameters on two cores, ten minutes."""
MOST_SEARCHED = 20_000
"""Passages among which negatives are looked for: the student embeds each."""


Nearest = Callable[[Sequence[str], int], list[str]]
"""The passages that are among so many nearest ones of any of the queries, by the teacher's embeddings."""


@dataclass(frozen=True)
class Workplace:
    """Where a round works, and with whom."""

    folder: Path
    checkpoint_s: float
    processes: ProcessGroup
    nearest: Nearest | None = None
    """Finds negatives in a corpus of any size; None looks among the first `MOST_SEARCHED` passages."""


def learn(
    model: Any, recipe: Recipe, corpus: Corpus, workplace: Workplace, report_progress: ReportProgress
) -> dict[str, float]:
    """Train `model` in place; what the manifest says of it, nothing where there are too few queries."""
    file, began = workplace.folder / ROWS, time.monotonic()
    found = corpus.queries(held_out=False)
    chosen = random.Random(recipe.seed).sample(found, min(MOST_QUERIES, len(found)))
    if len(chosen) < recipe.batch_size:
        return {}
    report_progress(Progress(state="mining negatives"))
    workplace.processes.compute_on_first(partial(_mine, model, chosen, corpus, file, workplace.nearest))
    count, mined_s = read_table(file).num_rows, round(time.monotonic() - began, 1)
    if count < recipe.batch_size:
        return {}
    inputs = fit.TrainingInputs(file, [], workplace.folder / CHECKPOINTS, workplace.checkpoint_s)
    outcome = fit.train(model, recipe.for_queries(), inputs, report_progress)
    return {"query_rows": count, "mined_s": mined_s, "query_s": outcome.seconds}


def _mine(model: Any, queries: Sequence[tuple[str, str]], corpus: Corpus, file: Path, nearest: Nearest | None) -> None:
    """Write the rows, unless a run that was killed has: the student was another one then."""
    if not file.is_file():
        unfinished = file.with_suffix(".part")
        if nearest is None:
            passages = list(islice(corpus.searched(held_out_too=False), MOST_SEARCHED))
        else:
            passages = nearest([query for query, _ in queries], max(1, MOST_SEARCHED // len(queries)))
        write_triplets(queries, passages, partial(encoder.encode, model), unfinished)
        unfinished.rename(file)
