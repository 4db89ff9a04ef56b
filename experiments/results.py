"""Results as JSON Lines: one trial a line. A trial that is in the file is not run again."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from experiments import pair_sets
from experiments.configuration import Row, Trial
from services.trainer.evaluation.sts import Row as PairRow
from shared.errors import Fatal

Result = Mapping[str, Any]


class Results:
    """A file of results, by trial key. A last line that a death cut short is overwritten."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._results: dict[str, Result] = {}
        whole = 0
        if file.is_file():
            for line in file.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                result = json.loads(line)
                self._results[result["key"]] = result
                whole += len(line)
            if whole < file.stat().st_size:
                with file.open("r+b") as broken:
                    broken.truncate(whole)

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> Result:
        return self._results[key]

    def add(self, key: str, result: Result) -> None:
        """Keep a result."""
        self._results[key] = {"key": key, **result}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._results[key]) + "\n")


def run_grid(
    rows: Sequence[Row],
    sets: Mapping[str, Sequence[PairRow]],
    results: Results,
    run: Callable[[Trial], Result],
    report: Callable[[str], None],
) -> int:
    """Run every trial that has no result yet, one after the other; how many that were."""
    digests = {name: pair_sets.digest(pairs) for name, pairs in sets.items()}
    ran = 0
    # Seed by seed: a run that is interrupted has every row, with fewer seeds.
    for trials in zip_longest(*(row.trials() for row in rows)):
        for row, trial in zip(rows, trials, strict=True):
            if trial is None or (key := trial.key(digests)) in results:
                continue
            result = run(trial)
            results.add(key, {"name": row.name, "seed": trial.seed, **result})
            report(f"{row.name}, seed {trial.seed}: {result['mean']} in {result['seconds']} s")
            ran += 1
    return ran


def by_name(file: Path, only: Sequence[str] = ()) -> dict[str, list[Result]]:
    """A file's results by row, in the file's order. Rows of one name but other evaluation sets are told apart by those.

    Of two with the same name, seed and evaluation sets the later one counts: a grid's row may have been changed and run
    again. `only`: of these evaluation sets. Raises `Fatal`.
    """
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if only:
            lines = [_part(line, only) for line in lines]
        latest = {(line["name"], line["seed"], *line["eval_pairs"]): line for line in lines}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Fatal(f"{file}: is not a file of results: {error!r}") from None
    groups: dict[tuple[str, ...], list[Result]] = {}
    for (name, _, *sets), line in latest.items():
        groups.setdefault((name, *sets), []).append(line)
    names = Counter(name for name, *_ in groups)
    return {
        name if names[name] == 1 else f"{name} ({', '.join(sets)})": group for (name, *sets), group in groups.items()
    }


def _part(line: Result, only: Sequence[str]) -> Result:
    scores = {name: line["eval_pairs"][name] for name in only if name in line["eval_pairs"]}
    return {**line, "eval_pairs": scores, "mean": sum(scores.values()) / len(scores) if scores else None}
