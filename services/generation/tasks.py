"""Task specs: labels, one instruction a label, and which other labels count against it.

The JSON form is the original DINO's (`task_name`, `labels`, `instruction`, `counter_labels`, `<X1>`), with two
additions a label: its `score`, and `exemplars`, pairs that show the teacher what is meant.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.pairs import Score, Sentence

X1 = "<X1>"
BUILT_IN = Path(__file__).with_name("task_specs")


class BadTask(Exception):
    """A task spec is wrong; the message says where and what."""


class UnknownTask(Exception):
    """No task of this name is loaded; the message lists those that are."""


class Label(BaseModel):
    """One label of a task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str
    """The prompt for sentence 2: holds `<X1>` once, where sentence 1 goes, and ends with an opening quote."""
    counter_labels: tuple[str, ...] = ()
    score: Score
    exemplars: tuple[tuple[Sentence, Sentence], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: object) -> object:
        if isinstance(value, Mapping) and not str(value.get("instruction", '"')).endswith('"'):
            raise ValueError('instruction: must end with an opening double quote (")')
        if isinstance(value, Mapping) and str(value.get("instruction", X1)).count(X1) != 1:
            raise ValueError(f"instruction: must hold {X1} exactly once")
        return value


class TaskSpec(BaseModel):
    """A task: what each label asks the teacher to write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9\-_.]{1,64}$")]
    labels: Annotated[dict[str, Label], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _score_from_name(cls, value: object) -> object:
        """The original's specs have no scores: there a label's name is its score ("0.5")."""
        labels = value.get("labels") if isinstance(value, Mapping) else None
        if isinstance(value, Mapping) and isinstance(labels, Mapping):
            scored = {}
            for name, label in labels.items():
                missing = isinstance(label, Mapping) and "score" not in label
                scored[name] = {**label, "score": _number(name)} if missing else label
            return {**value, "labels": scored}
        return value

    @model_validator(mode="after")
    def _counter_labels_exist(self) -> Self:
        for name, label in self.labels.items():
            for counter in label.counter_labels:
                if counter not in self.labels or counter == name:
                    raise ValueError(f"labels.{name}.counter_labels: {counter!r} is not another label of this task")
        return self


def _number(name: str) -> float:
    if not re.fullmatch(r"0(\.\d+)?|1(\.0+)?", name):
        raise ValueError(f"labels.{name}.score: give a score from 0 to 1 (the label's name is not one)")
    return float(name)


class Tasks:
    """The tasks that may be asked for, by name."""

    def __init__(self, specs: Iterable[TaskSpec]) -> None:
        self._specs = {spec.task_name: spec for spec in specs}

    def __iter__(self) -> Iterator[TaskSpec]:
        return iter(self._specs.values())

    def get(self, name: str) -> TaskSpec:
        """The task of this name. Raises `UnknownTask`."""
        try:
            return self._specs[name]
        except KeyError:
            raise UnknownTask(f"there is no task {name!r}; known: {', '.join(sorted(self._specs))}") from None


def load_tasks(folders: Iterable[Path]) -> Tasks:
    """Every `*.json` of the folders; a later one of the same name replaces an earlier. Raises `BadTask`."""
    return Tasks(load_task(file) for folder in folders for file in sorted(folder.glob("*.json")))


def load_task(file: Path) -> TaskSpec:
    """One spec. Raises `BadTask` that names the file and the place in it."""
    try:
        return TaskSpec.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadTask(f"{file}: {error}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise BadTask(f"{file}: {where + ': ' if where else ''}{message}") from error
