"""What the generator asks of an engine: complete one prompt while its counter prompts hold it back.

The engine knows tokens and distributions; it knows nothing of tasks, pairs or jobs.
"""

from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Decoding(BaseModel):
    """How a sentence is drawn. The defaults are the original DINO's."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    decay_constant: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] = 100.0
    """How strongly tokens that a counter-label's prompt likes better are suppressed; 0 turns self-debiasing off."""
    floor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.01
    """A suppressed token keeps at least this share of its probability (before renormalisation)."""
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=100_000)] = 5
    """Draw from the k likeliest tokens; 0: from all."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.9
    max_tokens: Annotated[int, Field(ge=1, le=512)] = 40


@dataclass(frozen=True)
class Sample:
    """One sentence to write: `prompts[0]` is the label's own prompt, the others its counter-labels'."""

    prompts: tuple[str, ...]
    seed: int
    """64 bits. The same seed and prompts give the same sentence, whatever else the engine does."""
    decoding: Decoding


@dataclass(frozen=True)
class Completion:
    """What the engine wrote, up to the closing quote, which is not part of `text`."""

    text: str
    closed: bool
    """False if `max_tokens` came before the closing quote."""
    tokens: int


class PromptTooLong(Exception):
    """The prompts with their output don't fit into the engine. The message gives both lengths."""


class EngineDead(Exception):
    """The engine has failed and will not answer again; the process must be started anew."""


class Engine(Protocol):
    """A running language model."""

    @property
    def state(self) -> str:
        """`ok`, or what it is doing or suffering from instead, for readiness."""

    @property
    def capacity(self) -> int:
        """How many prompts it decodes at one time."""

    @property
    def lanes_running(self) -> int:
        """Prompts that decode now."""

    @property
    def replays(self) -> int:
        """Samples that fell out of lockstep and were made again; 0 unless something is wrong."""

    async def start(self) -> None:
        """Load the model. Raises whatever the library raises."""

    def stop(self) -> None:
        """End it; calls that still wait raise `EngineDead` or are cancelled."""

    async def complete(self, sample: Sample) -> Completion:
        """Write one sentence. Cancelling the call frees the engine. Raises `PromptTooLong` or `EngineDead`."""
