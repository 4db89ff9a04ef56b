"""Running a grid: every trial that has no result yet, one after the other."""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from experiments import pair_sets
from experiments.configuration import Row, Trial
from experiments.results import Results
from services.trainer.evaluation.sts import StsFile, sts_files

Runner = Callable[[Trial], Mapping[str, Any]]
Collected = dict[str, list[Mapping[str, Any]]]


class Sweep:
    """A grid's rows, the pair sets that they name, and the results so far."""

    def __init__(self, rows: Sequence[Row], pairs: Path, results: Results) -> None:
        names = {name for row in rows for name in (*row.trial.train, *row.trial.judges)}
        self._rows, self._results = rows, results
        self.sets = {name: pair_sets.read(pairs, name) for name in sorted(names)}
        self._digests = {name: pair_sets.digest(set_) for name, set_ in self.sets.items()}

    def run(self, runner: Runner, say: Callable[[str], None]) -> int:
        """Run what is missing; how many trials that were."""
        ran = 0
        # Seed by seed: a run that is interrupted has every row, with fewer seeds.
        for trials in zip_longest(*(row.trials() for row in self._rows)):
            for row, trial in zip(self._rows, trials, strict=True):
                if trial is None:
                    continue
                key = trial.key(self._digests)
                if self._results.get(key) is None:
                    result = self._results.add(key, {"name": row.name, "seed": trial.seed, **runner(trial)})
                    say(f"{row.name}, seed {trial.seed}: judged {result['judged']} in {result['seconds']} s")
                    ran += 1
        return ran

    def collected(self) -> Collected:
        """The results there are, by row."""
        found = {
            row.name: [self._results.get(trial.key(self._digests)) for trial in row.trials()] for row in self._rows
        }
        return {name: [one for one in several if one is not None] for name, several in found.items() if any(several)}


def human_sets(folder: Path | None) -> dict[str, StsFile]:
    """The human-scored sets that measure; sets made for training on are left alone."""
    if folder is None:
        return {}
    return {name: file for name, file in sts_files(folder).items() if not name.endswith(".train")}
