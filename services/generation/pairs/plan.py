"""What a job shall write: the body of `POST /generate`, the options of the command, and their presets."""

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from services.generation.decoding.base import Decoding
from services.generation.pairs.filters import ALL, OF_A_CORPUS, OF_A_JOB, OF_A_SENTENCE1
from services.generation.pairs.prompts import Form
from services.generation.pairs.tasks import Tasks, TaskSpec
from shared.pairs import Sentence

MAX_INPUTS = 100_000
PLAN_VERSION = 1
"""Raise it when a plan of the same fields comes to mean other pairs: outputs begun before are then left alone."""
FILTERS = (*ALL, *OF_A_SENTENCE1, *OF_A_CORPUS, *OF_A_JOB)

Preset = Literal["default", "dino"]

# The original's values are the defaults of `Decoding`, but for line breaks.
DINO_DECODING = {**Decoding().model_dump(), "line_breaks": "reject"}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Ours. First sentences are drawn without top-k: they should differ from one another.
    "default": {"sentence1_decoding": {"top_k": 0}},
    # The original's command line and scripts (timoschick/dino): bare instructions, two outputs for each sentence and
    # label, each tried once, only outright repetitions removed.
    "dino": {
        "pairs_per_label": 2,
        "attempts": 1,
        "exemplars": 0,
        "topics": [],
        "prompt_form": "plain",
        "filters": ["identical", "repeat"],
        "decoding": DINO_DECODING,
        "sentence1_decoding": DINO_DECODING,
    },
}


class InvalidPlan(Exception):
    """A plan asks for what can't be done."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


def _known_filter(name: str) -> str:
    if name not in FILTERS:
        raise ValueError(f"there is no filter {name!r}; known: {', '.join(FILTERS)}")
    return name


def _kind_of_task(value: object) -> str | None:
    if isinstance(value, str):
        return "name"
    return "spec" if isinstance(value, Mapping | TaskSpec) else None


Task = Annotated[
    Annotated[str, Tag("name")] | Annotated[TaskSpec, Tag("spec")],
    Discriminator(
        _kind_of_task, custom_error_type="task", custom_error_message="give a task's name, or a task spec as an object"
    ),
]
"""A task by its name, or a spec of one's own."""
Pool = Annotated[list[Annotated[Sentence, Field(max_length=100)]], Field(max_length=10_000)]


class Plan(BaseModel):
    """What a job shall write. Everything about its pairs follows from this and from the teacher."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    preset: Preset = "default"
    """Where the other fields' defaults come from: `default` is ours, `dino` the original's."""
    task: Task = "sts"
    inputs: Annotated[list[Sentence] | None, Field(min_length=1, max_length=MAX_INPUTS)] = None
    """Sentences to write partners for; for `retrieval`, passages to write queries for."""
    num_inputs: Annotated[int | None, Field(ge=1, le=MAX_INPUTS)] = None
    """Instead of `inputs`: how many first sentences the teacher shall write itself."""
    queries: Annotated[int | None, Field(ge=1, le=MAX_INPUTS)] = None
    """Instead of `inputs`: for how many passages of the dataset to write, drawn by the seed; each may come again, once
    all have had their turn."""
    pairs: Annotated[int | None, Field(ge=1)] = None
    """How many accepted pairs are wanted for each label in all. Alone, the teacher writes as many first sentences as
    that takes; with `inputs`, they are gone through as often as it takes."""
    labels: Annotated[list[str] | None, Field(min_length=1)] = None
    """Which of the task's labels; all by default. A passage gets a query of each label that is named here; left out, of
    one kind, drawn by the seed."""
    pairs_per_label: Annotated[int, Field(ge=1, le=100)] = 1
    """Pairs wanted for each first sentence and label."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """How often a pair is tried before it is given up; with `pairs`, how many samples one may cost on average. A pair
    that the dataset has already gets another turn, with one attempt fewer."""
    exemplars: Annotated[int, Field(ge=0, le=16)] = 2
    """How many of the label's exemplars a prompt shows (as many as there are), drawn by the seed."""
    topics: Pool | None = None
    """What first sentences shall be about; left out, a built-in pool; `[]`: ask with the labels' own instructions."""
    genres: Pool | None = None
    """Where first sentences could stand; left out, a built-in pool."""
    sentence1_task: Task | None = None
    """A task without `<X1>`, such as the original's `sts-x1`, whose instructions ask for the first sentences."""
    prompt_form: Form = "auto"
    """`chat` uses the teacher's own chat template; `auto` does so for second sentences, if it has one: pairs teach more
    for it (docs/quality.md)."""
    contrast: bool = False
    """Suppress what a query would also say of the passage's nearest neighbour: a second lane, with its prompt."""
    round_trip_k: Annotated[int, Field(ge=1, le=1000)] = 10
    """A query's own passage must be among so many first ones of all passages by BM25 (filter `round_trip`)."""
    filters: list[Annotated[str, AfterValidator(_known_filter)]] | None = None
    """Which filters throw written sentences away; left out, all of them."""
    decoding: Decoding = Decoding()
    sentence1_decoding: Decoding = Decoding(top_k=0)
    """For first sentences."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    dry_run: bool = False
    """A preview: the pairs are shown with the job and go nowhere, neither into the stream nor to the trainer."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_preset(cls, value: object) -> object:
        if not isinstance(value, Mapping) or not isinstance(value.get("preset", "default"), str):
            return value
        preset = PRESETS.get(value.get("preset", "default"), {})
        merged = {**preset, **value}
        for name in ("decoding", "sentence1_decoding"):
            if isinstance(value.get(name), Mapping):
                merged[name] = {**preset.get(name, {}), **value[name]}
        return merged

    @model_validator(mode="after")
    def _one_source_of_sentences(self) -> Self:
        sources = [name for name in ("inputs", "num_inputs", "queries") if getattr(self, name) is not None]
        if self.pairs is not None:
            if self.num_inputs is not None:
                raise ValueError("give num_inputs or pairs, not both: with pairs, as many are written as it takes")
            if self.queries is not None:
                raise ValueError("give queries or pairs, not both: for given passages, pairs goes with inputs")
        elif len(sources) > 1:
            raise ValueError(f"give one of {', '.join(sources)}")
        elif not sources:
            raise ValueError(
                "give inputs (sentences), num_inputs (how many the teacher shall write), queries (how many passages of "
                "the dataset) or pairs (how many are wanted)"
            )
        return self

    def asks(self, name: str) -> bool:
        """Whether a filter is on."""
        return self.filters is None or name in self.filters

    def resolve(self, tasks: Tasks) -> "ResolvedPlan":
        """This plan with its task specs in it. Raises `InvalidPlan`, which names the field."""
        task = _spec("task", self.task, tasks)
        if not task.writes_pairs:
            message = f"{task.task_name!r} asks for first sentences only; name it in sentence1_task instead"
            raise InvalidPlan("task", message)
        first = None if self.sentence1_task is None else _spec("sentence1_task", self.sentence1_task, tasks)
        if first is not None and first.writes_pairs:
            raise InvalidPlan("sentence1_task", f"{first.task_name!r} asks for pairs: its instructions hold <X1>")
        for label in self.labels or ():
            if label not in task.labels:
                message = f"task {task.task_name!r} has no label {label!r}; it has {', '.join(task.labels)}"
                raise InvalidPlan("labels", message)
        _check_passages(self, task)
        # Every field was validated when this plan was made; up to 100,000 sentences need no second look.
        return ResolvedPlan.model_construct(**{**dict(self), "task": task, "sentence1_task": first})


class ResolvedPlan(Plan):
    """A plan with its task specs in it: it means the same everywhere and after every restart."""

    task: TaskSpec
    sentence1_task: TaskSpec | None = None
    last_passage: int = 0
    """With `queries`: the dataset's last passage when the job was made. It knows no later one."""

    @property
    def label_names(self) -> list[str]:
        """The labels to write."""
        return list(dict.fromkeys(self.labels)) if self.labels else list(self.task.labels)

    @property
    def draws_label(self) -> bool:
        """Whether each passage gets a query of one label alone, drawn by the seed."""
        return self.task.writes_queries and self.labels is None and self.pairs is None

    @property
    def first_sentences(self) -> int:
        """How many first sentences or passages there are; with `pairs`, as many as it takes if nothing is rejected."""
        if self.pairs is not None:
            return math.ceil(self.pairs / self.pairs_per_label)
        return len(self.inputs) if self.inputs is not None else self.num_inputs or self.queries or 0

    @property
    def pairs_requested(self) -> int:
        """How many pairs are asked for."""
        each = self.pairs if self.pairs is not None else self.first_sentences * self.pairs_per_label
        return each if self.draws_label else each * len(self.label_names)


def plan_hash(plan: ResolvedPlan) -> str:
    """Identifies what a plan asks for. Fields at their defaults don't count: a new one changes no plan of before."""
    described: Any = {"description": True, "labels": {"__all__": {"label_accuracy"}}}
    fields = plan.model_dump_json(exclude_defaults=True, exclude={"dry_run": True, "task": described})
    return hashlib.sha256(fields.encode()).hexdigest()


def _check_passages(plan: Plan, task: TaskSpec) -> None:
    if task.writes_queries and plan.inputs is None and plan.queries is None:
        message = (
            f"task {task.task_name!r} writes for passages: give them as inputs, or queries, how many of the dataset"
        )
        raise InvalidPlan("inputs", message)
    if plan.queries is not None and not task.writes_queries:
        raise InvalidPlan("queries", f"task {task.task_name!r} writes no queries; give inputs, num_inputs or pairs")
    if plan.contrast and not task.writes_queries:
        raise InvalidPlan("contrast", f"task {task.task_name!r} has no passages; its counter-labels are its contrast")


def _spec(field: str, task: str | TaskSpec, tasks: Tasks) -> TaskSpec:
    if isinstance(task, str) and task not in tasks:
        raise InvalidPlan(field, f"there is no task {task!r}; known: {', '.join(sorted(tasks))}")
    return tasks[task] if isinstance(task, str) else task
