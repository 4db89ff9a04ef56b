"""The trainer's own settings."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

Wait = Literal["auto", "always", "never"]


class TrainerSettings(BaseSettings):
    """Environment variables that begin with `PAIRWRIGHT_TRAINER_`."""

    model_config = SettingsConfigDict(env_prefix="PAIRWRIGHT_TRAINER_", env_ignore_empty=True, extra="ignore")

    round_pairs: PositiveInt = 200
    """A round starts once this many new pairs have come since the last one."""
    round_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """A round also starts this long after the last new pair came, with at least `round_min_pairs` new ones."""
    round_min_pairs: PositiveInt = 30

    wait_for_generation: Wait = "auto"
    """Whether a round waits while the generation service has jobs: `auto` does on few cores without a GPU."""
    wait_limit_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1800.0
    """How long a round waits for generation before it starts all the same."""

    epochs: PositiveInt | None = None
    """Left out, the recipe of the student's kind and the number of pairs decide; so for the next two."""
    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    batch_size: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42

    retry_seconds: PositiveFloat = 2.0
    """The pause before a failed round is run again; it grows fourfold each time."""
