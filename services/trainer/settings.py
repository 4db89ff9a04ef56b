"""The trainer's own settings."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.ports import PORTS

Wait = Literal["auto", "always", "never"]
Preset = Literal["default", "dino"]
Loss = Literal["cosine", "cosent", "angle", "mnrl"]

GENERATED = "generated"


class TrainerSettings(BaseSettings):
    """Environment variables that begin with `PAIRWRIGHT_TRAINER_`."""

    model_config = SettingsConfigDict(
        env_prefix="PAIRWRIGHT_TRAINER_", env_ignore_empty=True, extra="ignore", use_attribute_docstrings=True
    )
    RETIRED: ClassVar = {"PAIRWRIGHT_TRAINER_VIEWS": "PAIRWRIGHT_TRAINER_TEACHER_EMBEDDINGS"}  # retired: remove in 0.3

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = PORTS["trainer"]
    """Where its routes answer, `/docs` names them; 0: nowhere."""

    round_pairs: PositiveInt = 200
    """A round starts once this many new pairs have come since the last one."""
    round_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """A round also starts this long after the last new pair came, with at least `round_min_pairs` new ones."""
    round_min_pairs: PositiveInt = 30

    wait_for_generation: Wait = "auto"
    """Whether a round waits while the generation service has jobs: `auto` does on few cores without a GPU."""
    wait_limit_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1800.0
    """How long a round waits for generation before it starts all the same."""

    preset: Preset = "default"
    """`dino` is the paper's recipe; `default` is ours. What is set below changes single numbers of either."""
    loss: Loss | None = None
    teacher_embeddings: Annotated[int | None, Field(ge=0, le=1_000_000)] = None
    """At most so many of the dataset's sentences are embedded by the teacher, and a student is fitted to that before it
    trains: a static one, `compact`, and any other transformer on short texts alone; 0: none. Left out: 10,000 with the
    default teacher, but none for a static student that is not made from it."""
    embeddings: str | None = None
    """A folder that `embed` wrote, by its path or URI: rounds take teacher embeddings from there before they compute
    them, and look for a transformer's hard negatives among all its passages."""
    matryoshka: str | None = None
    """Shorter vectors that must be good too, as in `256,128,64`: Matryoshka around the loss."""
    epochs: PositiveInt | None = None
    """Left out, the preset, the student's kind and the number of pairs decide; so for the next ones."""
    max_steps: PositiveInt | None = None
    """A ceiling on a round's steps, whatever the epochs."""
    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    batch_size: PositiveInt | None = None
    gradient_accumulation: PositiveInt = 1
    early_stop: PositiveInt | None = None
    """End a round after this many evaluations without a better dev score."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    warm_start: bool = False
    """Continue from the current version, on the new pairs and some old ones, instead of from the base on all."""
    replay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """With `warm_start`: how many old pairs are trained on again for each new one."""
    processes: PositiveInt | None = None
    """Processes that share a round; left out, one for each GPU. Static students always take one."""
    cluster: str | None = None
    """`auto` or HOST:PORT of a Ray cluster whose machines share a transformer's round, and `PAIRWRIGHT_HOME`; left out,
    this machine alone. A process takes a GPU, or without any a machine."""
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Time between checkpoints: what a death in the middle of a round costs at most."""

    sts: Path | None = None
    """A folder of human-scored STS files; each version is scored on them too, in a column of its own."""
    select_on: str = GENERATED
    """What chooses the checkpoint: the generated dev pairs, or one of the STS files by its name, as in `stsb.dev`."""

    gate: Literal["estimate", "off"] = "estimate"
    """Whether a version is published only if the label-free estimate is for it; `off` publishes whatever is sound."""
    estimate_teacher: str = "default"
    """The language model of the label-free estimate: `default` (the default teacher), a folder or a hub id."""
    gate_margin: Annotated[float, Field(ge=0, le=200, allow_inf_nan=False)] = 0.2
    """Points of the label-free estimate by which a new version may be worse than the base and the current one."""
    gate_confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """How sure the bootstrap must be that it is worse by more for the gate to reject it, or better to publish it."""
    keep_versions: Annotated[int, Field(ge=1)] = 5
    """The newest versions that are kept, beside current, previous and best; and as many rejected candidates."""
    hub_repo: str | None = None
    """A model repository on the hub, as `owner/name`, to which published versions are pushed. Needs HF_TOKEN."""

    retry_seconds: PositiveFloat = 2.0
    """The pause before a failed round is run again; it grows fourfold each time."""

    @field_validator("matryoshka")
    @classmethod
    def _dimensions(cls, value: str | None) -> str | None:
        if value is not None and not all(part.strip().isdecimal() and int(part) > 0 for part in value.split(",")):
            raise ValueError("must be numbers of dimensions, separated by commas, as in 256,128,64")
        return value
