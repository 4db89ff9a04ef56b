"""Task specs: labels, one instruction a label, and which other labels count against it.

The JSON form is the original DINO's (`task_name`, `labels`, `instruction`, `counter_labels`, `<X1>`) with a label's
`score` and `exemplars`, and with the task's `sentence1`: how the teacher is asked for first sentences. A spec without
`<X1>`, such as the original's `sts-x1`, asks for first sentences only. One with `<X2>` in its place gives sentence 2, a
passage, and asks for sentence 1, a query; its labels are kinds of queries.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.errors import Fatal, validation_message
from shared.pairs import Score, Sentence

X1, X2, TOPIC, GENRE = "<X1>", "<X2>", "<TOPIC>", "<GENRE>"
BUILT_IN = Path(__file__).with_name("task_specs")
MAX_EXEMPLARS = 64


class InvalidTask(Fatal):
    """A task spec is wrong; the message says where and what."""


class Exemplar(NamedTuple):
    """A pair that shows what a label means."""

    sentence1: Sentence
    sentence2: Sentence


class Label(BaseModel):
    """One label of a task."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    instruction: Annotated[str, Field(max_length=4000)]
    """The prompt for sentence 2: holds `<X1>` once, where sentence 1 goes, and ends with an opening quote. Or that for
    sentence 1, a query: holds `<X2>` once, where the passage goes."""
    counter_labels: tuple[str, ...] = ()
    score: Score
    label_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """The share of pairs for which a reader found this label right, as the default teacher writes it for sentences of
    three technical domains; null where nobody has graded it. It changes nothing."""
    exemplars: Annotated[tuple[Exemplar, ...], Field(max_length=MAX_EXEMPLARS)] = ()
    """A pool: a prompt shows a few of them, drawn by the seed."""

    @model_validator(mode="before")
    @classmethod
    def _check_instruction(cls, value: object) -> object:
        if isinstance(value, Mapping):
            instruction = str(value.get("instruction", '"'))
            if not instruction.endswith('"'):
                raise ValueError('instruction: must end with an opening double quote (")')
            if instruction.count(X1) + instruction.count(X2) > 1:
                raise ValueError(
                    f"instruction: must hold {X1} exactly once (or {X2}), or not at all to ask for first sentences"
                )
        return value

    @property
    def writes_query(self) -> bool:
        """Whether it asks for sentence 1, a query for a passage."""
        return X2 in self.instruction


class FirstSentence(NamedTuple):
    """A first sentence that shows what is meant, and what it is about."""

    topic: Sentence
    genre: Sentence
    sentence: Sentence


class SentenceOne(BaseModel):
    """How the teacher is asked for first sentences."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    instruction: Annotated[str, Field(max_length=4000)]
    """May hold `<TOPIC>` and `<GENRE>`, which are drawn by the seed; ends with an opening quote."""
    exemplars: Annotated[tuple[FirstSentence, ...], Field(max_length=MAX_EXEMPLARS)] = ()

    @model_validator(mode="after")
    def _ends_in_a_quote(self) -> Self:
        if not self.instruction.endswith('"'):
            raise ValueError('instruction: must end with an opening double quote (")')
        return self


class TaskSpec(BaseModel):
    """A task: what each label asks the teacher to write."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    task_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9\-_.]{1,64}$")]
    description: Annotated[str, Field(max_length=1000)] = ""
    labels: Annotated[dict[str, Label], Field(min_length=1, max_length=16)]
    sentence1: SentenceOne | None = None
    """Left out, first sentences are asked for with the labels' own instructions, cut before `<X1>`."""

    @property
    def writes_pairs(self) -> bool:
        """False for a spec that asks for first sentences only."""
        return self.writes_queries or all(X1 in label.instruction for label in self.labels.values())

    @property
    def writes_queries(self) -> bool:
        """Whether sentence 2, a passage, is given and sentence 1, a query for it, is asked for."""
        return all(label.writes_query for label in self.labels.values())

    @model_validator(mode="before")
    @classmethod
    def _score_from_name(cls, value: object) -> object:
        """The original's specs have no scores: there a label's name is its score ("0.5")."""
        if not isinstance(value, Mapping) or not isinstance(labels := value.get("labels"), Mapping):
            return value
        scored = {
            name: {"score": _number(str(name), label), **label}
            for name, label in labels.items()
            if isinstance(label, Mapping) and "score" not in label
        }
        return {**value, "labels": {**labels, **scored}}

    @model_validator(mode="after")
    def _labels_fit_together(self) -> Self:
        for name, label in self.labels.items():
            if not name.strip() or len(name) > 64 or "/" in name:
                raise ValueError(f"labels: {name[:64]!r} can't be a label's name (1 to 64 characters, no slash)")
            for counter in label.counter_labels:
                if counter not in self.labels or counter == name:
                    raise ValueError(f"labels.{name}.counter_labels: {counter!r} is not another label of this task")
        if len({placeholder(label.instruction) for label in self.labels.values()}) > 1:
            raise ValueError(f"labels: either every instruction holds {X1} exactly once, or none does ({X2} likewise)")
        return self


def placeholder(instruction: str) -> str | None:
    """Where the given sentence goes."""
    return next((name for name in (X1, X2) if name in instruction), None)


def _number(name: str, label: Mapping[str, Any]) -> float:
    if placeholder(str(label.get("instruction", X1))) is None:
        return 0.0  # a first sentence has no score
    if not re.fullmatch(r"0(\.\d+)?|1(\.0+)?", name):
        raise ValueError(f"labels.{name}.score: give a score from 0 to 1 (the label's name is not one)")
    return float(name)


Tasks = Mapping[str, TaskSpec]
"""The tasks that may be asked for, by name."""


def load_all_tasks(own: Path | None) -> Tasks:
    """The built-in tasks, and those of a folder of the user's own. Raises `InvalidTask`, also for two of one name."""
    if own is not None and not own.is_dir():
        raise InvalidTask(f"{own}: there is no such folder of task specs")
    files = [file for folder in (BUILT_IN, own) if folder is not None for file in sorted(folder.glob("*.json"))]
    tasks: dict[str, TaskSpec] = {}
    places: dict[str, Path] = {}
    for file in files:
        spec = load_task(file)
        if (first := places.setdefault(spec.task_name, file)) != file:
            built_in = " (built in)" if first.parent == BUILT_IN else ""
            raise InvalidTask(f"{file}: its task_name {spec.task_name!r} is that of {first}{built_in}: rename one")
        tasks[spec.task_name] = spec
    return tasks


def load_task(file: Path) -> TaskSpec:
    """One spec. Raises `InvalidTask` that names the file and the place in it."""
    try:
        return TaskSpec.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidTask(f"{file}: {error}") from error
    except ValidationError as error:
        raise InvalidTask(f"{file}: {': '.join(filter(None, first_problem(error)))}") from error


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The first of a validation's errors: the place, its parts joined by dots ("" for the whole), and the message."""
    first = error.errors(include_input=False, include_url=False)[0]
    return ".".join(str(part) for part in first["loc"]), validation_message(first)
