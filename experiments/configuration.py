"""What a trial is: every choice that decides its result, and the name under which the result is kept."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from shared.errors import Fatal

RESULTS = 3
"""Raise it when a trial's code changes what comes out: results kept before are then not taken."""


@dataclass(frozen=True)
class Initial:
    """How the static student's word vectors are made."""

    source: str = "table"
    """`table`: the teacher's token table; `layer-K`: what its layer K says of each token alone."""
    dropped: int = 3
    dimensions: int = 512
    whitening: float = 0.0
    """A component is divided by its standard deviation to this power."""
    weighting: Literal["none", "log-id", "zipf", "idf"] = "log-id"
    """A token's weight: from its id, from Zipf's law for its id, or from the training pairs' own sentences."""
    zipf: float = 100.0
    """With `zipf`: the weight grows as id / (id + this)."""
    fold: Literal["none", "mean", "first"] = "none"
    """Tokens that differ in case or leading space only: left alone, their mean, or the commonest of them for all."""
    within: float | None = None
    """Fit on the training pairs: suppress directions in which pairs of score 1 differ. The share of the identity in the
    covariance (1: no effect)."""


@dataclass(frozen=True)
class Trial:
    """One training of one student on some pairs, and what it is measured on."""

    train: tuple[str, ...] = ()
    """Names of pair sets; without any, the student stays as it is."""
    judges: tuple[str, ...] = ()
    """Names of pair sets that only measure. What shares a sentence with the training pairs is left out of them."""
    pairs: int | None = None
    """How many pairs are taken, by a hash of their sentence1 and whole groups at a time; None takes all."""
    student: str = "static"
    """`static`: made as `initial` says; `default`: as the service makes it; `one-word`: the teacher's lower layers and
    what they see in a sentence;
    `teacher-K`: the teacher's first K layers, mean pooling; or a folder."""
    views: int = 0
    """So many of the sentences that are trained on are shown to the teacher, and a static student learns from that."""
    sentences: int = 0
    """And so many further sentences, from `--sentences`."""
    soft: float = 0.0
    """The share of a pair's score that is the teacher's own similarity of the two sentences (of its views)."""
    initial: Initial = Initial()
    shuffled: bool = False
    """The placebo: scores are shuffled inside each group of one sentence1."""
    loss: str = "cosine"
    learning_rate: float = 1e-3
    batch_size: int = 32
    epochs: int = 3
    """0: untrained."""
    random_pairs: int = 2
    smoothing: float = 0.2
    select: Literal["dev", "last"] = "dev"
    """What ends up: the step that is best on the generated dev side, or the last one."""
    filters: tuple[str, ...] = ()
    """Further filters on the training pairs, by name (pair_sets.FILTERS)."""
    seed: int = 1

    def key(self, digests: Mapping[str, str]) -> str:
        """Names the trial by its choices and by the content of its pair sets."""
        used = {name: digests[name] for name in (*self.train, *self.judges)}
        text = json.dumps([RESULTS, asdict(self), used], sort_keys=True)
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
    """The rows of a trial grid: `base`, `seeds`, and `rows`, each with a name and what it changes; a changed value that
    is given as {"each": [...]} makes a row of every value. Raises `Fatal`."""
    try:
        grid = json.loads(file.read_text(encoding="utf-8"))
        found = [row for given in grid["rows"] for row in _rows(grid, given)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Fatal(f"{file}: is not a trial grid: {error!r}") from None
    if len({row.name for row in found}) < len(found):
        raise Fatal(f"{file}: two rows have the same name")
    return found


def _rows(grid: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Row]:
    changes = {name: value for name, value in given.items() if name != "name"}
    several = [name for name, value in changes.items() if isinstance(value, Mapping) and "each" in value]
    for values in itertools.product(*(changes[name]["each"] for name in several)):
        chosen = dict(zip(several, values, strict=True))
        name = " ".join([given["name"], *(f"{part.split('.')[-1]}={value}" for part, value in chosen.items())])
        yield Row(name, make_trial(grid["base"] | changes | chosen), tuple(grid["seeds"]))


def make_trial(values: Mapping[str, Any]) -> Trial:
    """A trial of JSON values; `initial.NAME` sets a field of `Initial`. Raises TypeError for an unknown name."""
    initial = {name.removeprefix("initial."): value for name, value in values.items() if name.startswith("initial.")}
    own = {name: value for name, value in values.items() if not name.startswith("initial.")}
    lists = {one.name for one in fields(Trial) if str(one.type).startswith("tuple")}
    plain: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in own.items()}
    return Trial(initial=Initial(**initial), **plain)
