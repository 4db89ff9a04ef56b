"""`python -m experiments.large`: which training makes the best transformer student, on many pairs, without people.

Made for one GPU and few minutes: several trainings share the card, each phase takes up what the last one found best,
and all of it ends at a given second. What may choose is `score`, and nothing else; the phases are written here before
they are run. In: a folder of pair sets, those of `grids/generation-large.json` and the judges. Out: `trials.jsonl`,
from which a rerun goes on; the pairs that the judge pass keeps, as sets (`kept-...`); and the best student's adapter,
in the form in which the trainer reads it (`services/trainer/adapter.py`).
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from experiments import pair_sets
from experiments.transformer import Lesson, Student, Unit, train
from services.trainer.evaluation.sts import Row
from services.trainer.evaluation.sts import score as spearman
from services.trainer.models import adapter
from shared.errors import Fatal
from shared.process import exit_with

SCORES = (1.0, 0.5, 0.0)
"""Of the labels, in the order in which the judge pass has them."""
DECIDING = ("people", "gemma")
"""Judging sets by their weight in a decision, which is equal: the same teacher's pairs on sentences by people, and
another teacher's. A gain must show on the second one too."""
SAME = ("same-default", "same-cool", "same-chat", "same-chat-cool", "same-decay-50")
OWN = ("own-1", "own-2", "own-3")
EVERYTHING = (*OWN, *SAME)
WORDS = "words"
"""Not pairs, but a sentence about each word of the vocabulary."""
ORDER = 7
"""Seed of the order in which units and sentences are taken."""
FEW = 2_400
"""First sentences by which settings of the generation are compared."""


@dataclass(frozen=True)
class Trial:
    """One training."""

    name: str
    sets: tuple[str, ...]
    lesson: Lesson
    most: int | None = None
    """First sentences at most."""
    judged: str = "no"
    """`keep`: only pairs that the judge pass gives to their own label; `soft`: its mean score for the label's."""
    placebo: bool = False
    """Scores shuffled inside each unit."""


@dataclass(frozen=True)
class Material:
    """What trials share."""

    teacher: str
    pairs: dict[str, list[Row]]
    """By set."""
    judges: dict[str, list[Row]]
    out: Path
    """Takes what comes out, the judge pass's probabilities among it."""
    deadline: float


def read(folder: Path, judges: Sequence[str]) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """The sets to train on, without pairs that have a sentence of a judge, and the judges. Raises `Fatal`."""
    judging = {name: pair_sets.read(folder, name) for name in judges}
    every = [row for rows in judging.values() for row in rows]
    return {name: pair_sets.apart(pair_sets.read(folder, name), every) for name in (*EVERYTHING, WORDS)}, judging


def units(trial: Trial, material: Material) -> list[Unit]:
    """A trial's units, in an order of their own, at most so many."""
    found: list[Unit] = []
    for name in trial.sets:
        rows = _judged_rows(trial, material, name)
        partners: dict[str, list[tuple[str, float]]] = {}
        for one, other, score in pair_sets.shuffled(rows, ORDER) if trial.placebo else rows:
            partners.setdefault(one, []).append((other, score))
        found += [Unit(one, tuple(own)) for one, own in partners.items()]
    random.Random(ORDER).shuffle(found)
    return found[: trial.most]


def _judged_rows(trial: Trial, material: Material, name: str) -> list[Row]:
    rows = material.pairs[name]
    if trial.judged == "no":
        return rows
    judged = list(zip(rows, _posteriors(material)[name], strict=True))
    if trial.judged == "keep":
        return [row for row, chance in judged if SCORES[int(chance.argmax())] == row[2]]
    return [(one, other, float(np.dot(SCORES, chance))) for (one, other, _), chance in judged]


def sentences(trial: Trial, material: Material) -> list[str]:
    """What the loss `templates` learns from: first sentences of the trial's sets, and those about words."""
    found = dict.fromkeys(one for name in trial.sets for one, _, _ in material.pairs[name])
    found.update((two, None) for _, two, _ in material.pairs[WORDS])
    texts = sorted(found)
    random.Random(ORDER).shuffle(texts)
    return texts


_here: dict[str, Any] = {}


def _settle(material: Material) -> None:
    _here["material"], _here["student"] = material, Student(Path(material.teacher))


def _run(trial: Trial) -> dict[str, Any]:
    material, student = _here["material"], _here["student"]
    began = time.time()
    told = train(
        student,
        units(trial, material),
        sentences(trial, material) if "templates" in trial.lesson.losses else (),
        trial.lesson,
        lambda: time.time() < material.deadline,
    )
    _save(student, material.out / "adapters" / trial.name)
    row = {"name": trial.name, "trial": asdict(trial), **told, "seconds": round(time.time() - began, 1)}
    return row | {"judged": _judged(student, material)}


def _judged(student: Student, material: Material) -> dict[str, float]:
    texts = list(dict.fromkeys(text for rows in material.judges.values() for row in rows for text in row[:2]))
    places = {text: place for place, text in enumerate(texts)}
    vectors = student.encode(texts)
    return {
        name: round(spearman(lambda some: vectors[[places[text] for text in some]], rows), 2)
        for name, rows in material.judges.items()
    }


def _save(student: Student, file: Path) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(student.adapter() | {adapter.CENTRE: student.centre.cpu()}, file, {"teacher": student.fingerprint})


class Search:
    """The phases, one after another."""

    def __init__(self, material: Material, workers: int) -> None:
        self._material, self._file = material, material.out / "trials.jsonl"
        lines = self._file.read_text().splitlines() if self._file.is_file() else []
        self._known = {json.dumps(row["trial"]): row for row in map(json.loads, lines) if row["whole"]}
        self.rows: list[dict[str, Any]] = []
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _settle, (material,))

    def score(self, row: dict[str, Any]) -> float:
        """What decides."""
        return float(np.mean([row["judged"][name] for name in DECIDING]))

    def run(self, trials: Iterable[Trial], beside: Iterable[Future[Any]] = ()) -> list[dict[str, Any]]:
        """Run them; rows that time cut short, or that failed, are not among those returned. Waits for `beside` too."""
        found = []
        for trial, waiting in [(trial, self._begin(trial)) for trial in trials]:
            try:
                row = waiting.result()
                new = "whole" not in row
                row = {"whole": time.time() < self._material.deadline} | row
            except Exception as error:  # one trial must not take the others with it
                print(f"{trial.name}: {error!r}", flush=True)
                continue
            told = f"{row['judged']} {row['steps']} steps {row['seconds']} s"
            print(f"{row['name']:40s} {self.score(row):6.2f} {told}", flush=True)
            if new:
                with self._file.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if row["whole"]:
                found.append(row)
        for one in beside:
            print(one.result(), flush=True)
        self.rows += found
        return found

    def _begin(self, trial: Trial) -> Future[dict[str, Any]]:
        known = self._known.get(json.dumps(asdict(trial)))
        if known is None:
            return self._pool.submit(_run, trial)
        found: Future[dict[str, Any]] = Future()
        found.set_result(known | {"trial": asdict(trial)})  # JSON made lists of its tuples
        return found

    def judge(self) -> Future[str]:
        """Begin the judge pass."""
        return self._pool.submit(_judge_pass)

    def best(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """By the score; only what gains on each deciding judge, and no placebo."""
        base = self.rows[0]["judged"]
        able = [
            row
            for row in rows
            if not row["trial"]["placebo"] and all(row["judged"][name] >= base[name] for name in DECIDING)
        ]
        return max(able, key=self.score, default=None)


def phases(search: Search) -> dict[str, Any] | None:
    """What is tried, in the order in which it is tried. Returns the row of the best."""
    untrained = Trial("untrained", OWN, Lesson(("mnrl",), epochs=0))
    search.run([untrained])
    # 1. Settings of the generation, on the same first sentences; losses and rates, on all pairs.
    settings = [
        Trial(f"{name} {loss}", (name,), Lesson((loss,), epochs=epochs, batch=batch), FEW)
        for loss, epochs, batch in (("mnrl", 2, 128), ("cosine", 1, 512))
        for name in SAME
    ]
    several = [
        Trial(f"all {'+'.join(losses)} {rate}", EVERYTHING, Lesson(losses, rate, batch=512 if scored else 128))
        for losses, rates, scored in (
            (("mnrl",), (2e-4, 6e-5, 6e-4), False),
            (("mnrl", "templates"), (2e-4, 6e-5, 6e-4), False),
            (("templates",), (2e-4,), False),
            (("cosine",), (2e-4, 6e-4), True),
            (("cosent",), (2e-4,), True),
        )
        for rate in rates
    ]
    search.run([*several, *settings], [search.judge()])
    second = [row for row in search.rows if row["trial"]["sets"] == EVERYTHING]
    means = {
        name: np.mean([search.score(row) for row in search.rows if row["trial"]["sets"] == (name,)] or [0.0])
        for name in SAME
    }
    better = sorted(SAME, key=lambda name: -means[name])[:2]
    best = search.best(second)
    if best is None:
        return None
    # 2. Around the best: what the labels say, how many, how long.
    lesson = Lesson(**best["trial"]["lesson"] | {"losses": tuple(best["trial"]["lesson"]["losses"])})
    around = [
        Trial("placebo", EVERYTHING, lesson, placebo=True),
        Trial("judge keeps", EVERYTHING, lesson, judged="keep"),
        Trial("three epochs", EVERYTHING, replace(lesson, epochs=3)),
        *(Trial(f"{count} first sentences", EVERYTHING, lesson, count) for count in (600, 2_400, 9_600)),
        Trial("own only", OWN, lesson),
        Trial(f"own, {better[0]}, {better[1]}", (*OWN, *better), lesson),
        Trial("batches twice as large", EVERYTHING, replace(lesson, batch=2 * lesson.batch)),
    ]
    scored = [name for name in lesson.losses if name in ("cosine", "cosent")]
    if scored:
        around.append(Trial("judge softens", EVERYTHING, lesson, judged="soft"))
    best = search.best([best, *search.run(around)])
    # 3. Is it luck?
    assert best is not None
    chosen = Trial(**best["trial"] | {"lesson": Lesson(**best["trial"]["lesson"])})
    search.run(
        replace(chosen, name=f"{chosen.name}, seed {seed}", lesson=replace(chosen.lesson, seed=seed)) for seed in (2, 3)
    )
    return best


def main() -> None:
    """Parse, judge, search, view."""
    parser = argparse.ArgumentParser(prog="python -m experiments.large")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--pairs", type=Path, required=True, help="the sets' folder")
    parser.add_argument("--judges", nargs="*", default=[], help="further sets to show; people and gemma decide")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3600, help="end by then")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + given.seconds
    pairs, judges = read(given.pairs, [*DECIDING, *given.judges])
    material = Material(given.teacher, pairs, judges, given.out, deadline)
    best = phases(Search(material, given.workers))
    print("best:", best and best["name"], flush=True)
    if best is not None:
        shutil.copyfile(given.out / "adapters" / best["name"], given.out / "adapter.safetensors")


def _judge_pass() -> str:
    """Judge all pairs of the training sets; what is told of it."""
    from experiments.likelihood import log_likelihoods, posteriors, sts

    material: Material = _here["material"]
    if (material.out / "posteriors.npy").is_file():
        return "judge pass: is there"
    task = sts()
    scores = [label.score for label in task.labels.values()]
    order = [scores.index(score) for score in SCORES]
    rows = [row for name in EVERYTHING for row in material.pairs[name]]
    labels = np.array([SCORES.index(score) for _, _, score in rows])
    began = time.time()
    found = log_likelihoods([(one, other) for one, other, _ in rows], task, Path(material.teacher))[:, order]
    np.savez_compressed(material.out / "likelihoods.npz", found=found.astype(np.float32))
    chances = posteriors(found, labels)
    np.save(material.out / "posteriors.npy", chances)
    lines = [f"judge pass: {len(rows)} pairs in {time.time() - began:.0f} s; given to their own label:"]
    first = 0
    for name in EVERYTHING:
        part = slice(first, first := first + len(material.pairs[name]))
        right = chances[part].argmax(axis=1) == labels[part]
        kept = [row for row, own in zip(material.pairs[name], right, strict=True) if own]
        pair_sets.write(material.out / f"kept-{name}.jsonl", kept)
        shares = {score: round(float(right[labels[part] == place].mean()), 3) for place, score in enumerate(SCORES)}
        lines.append(f"  {name}: {shares}")
    return "\n".join(lines)


@cache
def _all_posteriors(file: Path) -> Any:
    return np.load(file)


def _posteriors(material: Material) -> dict[str, Any]:
    """p(label), [pairs, labels], by set."""
    chances, first = _all_posteriors(material.out / "posteriors.npy"), 0
    return {name: chances[first : (first := first + len(material.pairs[name]))] for name in EVERYTHING}


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("experiments", fatal)
