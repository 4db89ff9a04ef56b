"""What a trial is: every choice that decides its result, and the key under which the result is kept."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from shared.errors import Fatal

RESULTS_VERSION = 4
"""Raise it when a trial's code changes what comes out: results kept before are then not reused."""


@dataclass(frozen=True)
class CorpusTraining:
    """What the student `static` learns from the default teacher's corpus before any pair."""

    sentences: int = 0
    """0: nothing; more than there are: all."""
    regression: bool = True
    """Whether token embeddings are fitted to the teacher embeddings by ridge regression."""
    epochs: int = 0
    """Of similarity distillation, after the regression."""
    learning_rate: float = 1e-2
    shuffled: bool = False
    """The placebo of similarity distillation: each sentence gets the teacher embedding of another one."""


@dataclass(frozen=True)
class Trial:
    """One training of one student on some pairs, and what it is measured on."""

    train: tuple[str, ...] = ()
    """Names of pair sets; without any, the student stays as it is."""
    eval_pairs: tuple[str, ...] = ()
    """Names of pair sets that only measure. Pairs that share a sentence with the training pairs are left out."""
    pairs: int | None = None
    """How many pairs are taken, by a hash of their sentence1 and whole groups at a time; None takes all."""
    student: str = "static"
    """`static`: from the teacher's token table and `corpus`; `default`, `teacher`: as the trainer makes them;
    `adapter`: the teacher without its adapter, and a new one that is trained; or a folder."""
    corpus: CorpusTraining = CorpusTraining()
    shuffled: bool = False
    """The placebo: scores are shuffled inside each group of one sentence1."""
    teacher_embeddings: int = 0
    """A static student is fitted to the teacher embeddings of at most so many of the training sentences."""
    loss: str = "cosine"
    """The student `adapter` always takes in-batch negatives."""
    learning_rate: float = 1e-3
    batch_size: int = 32
    epochs: int = 3
    """0: untrained."""
    random_pairs: int = 2
    smoothing: float = 0.2
    select: Literal["dev", "last"] = "dev"
    """What ends up: the step that is best on the generated dev side, or the last one."""
    seed: int = 1

    def key(self, digests: Mapping[str, str]) -> str:
        """Identifies the trial by its choices and by the content of its pair sets."""
        used = {name: digests[name] for name in (*self.train, *self.eval_pairs)}
        text = json.dumps([RESULTS_VERSION, asdict(self), used], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Row:
    """A named row of a table: one recipe, repeated with several seeds."""

    name: str
    trial: Trial
    seeds: tuple[int, ...]

    def trials(self) -> Iterator[Trial]:
        """One for each seed."""
        return (replace(self.trial, seed=seed) for seed in self.seeds)


def read_grid(file: Path) -> list[Row]:
    """The rows of a trial grid: `base`, `seeds`, and `rows`, each with a name and what it changes. A changed value that
    is given as {"each": [...]} makes a row of every value; a row may have its own `seeds`. Raises `Fatal`."""
    try:
        grid = json.loads(file.read_text(encoding="utf-8"))
        rows = [row for entry in grid["rows"] for row in _rows(grid, entry)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Fatal(f"{file}: is not a trial grid: {error!r}") from None
    if len({row.name for row in rows}) < len(rows):
        raise Fatal(f"{file}: two rows have the same name")
    return rows


def _rows(grid: Mapping[str, Any], entry: Mapping[str, Any]) -> Iterator[Row]:
    changes = {name: value for name, value in entry.items() if name not in ("name", "seeds")}
    several = [name for name, value in changes.items() if isinstance(value, Mapping) and "each" in value]
    for values in itertools.product(*(changes[name]["each"] for name in several)):
        options = dict(zip(several, values, strict=True))
        name = " ".join([entry["name"], *(f"{part.split('.')[-1]}={value}" for part, value in options.items())])
        yield Row(name, make_trial(grid["base"] | changes | options), tuple(entry.get("seeds", grid["seeds"])))


def make_trial(values: Mapping[str, Any]) -> Trial:
    """A trial of JSON values; `corpus.NAME` sets a field of `CorpusTraining`. Raises TypeError for an unknown name."""
    corpus = {name.removeprefix("corpus."): value for name, value in values.items() if name.startswith("corpus.")}
    own = {name: value for name, value in values.items() if not name.startswith("corpus.")}
    lists = {field.name for field in fields(Trial) if str(field.type).startswith("tuple")}
    plain: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in own.items()}
    return Trial(corpus=CorpusTraining(**corpus), **plain)
