"""The engine's interface: complete one prompt while its counter-prompts are suppressed (self-debiasing)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypedDict

from pydantic import BaseModel, Field

LineBreaks = Literal["ban", "reject"]
End = Literal["quote", "inner_quote", "line_break", "length"]


class Decoding(BaseModel, frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True):
    """How a sentence is drawn. The defaults are the original DINO's."""

    decay_constant: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] = 100.0
    """How strongly tokens that a counter-label's prompt likes better are suppressed; 0 turns self-debiasing off."""
    floor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.01
    """A suppressed token keeps at least this share of its probability (before renormalisation)."""
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=100_000)] = 5
    """Draw from the k likeliest tokens; 0: from all."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.9
    max_tokens: Annotated[int, Field(ge=1, le=512)] = 40
    line_breaks: LineBreaks = "ban"
    """`ban`: never drawn. `reject`: drawn as they come, and the sentence thrown away, as the original does."""


@dataclass(frozen=True)
class Sample:
    """One sentence to write: `prompts[0]` is the label's own prompt, the others its counter-labels'."""

    prompts: tuple[str, ...]
    seed: int
    """64 bits. The same seed and prompts give the same sentence, whatever else the engine does."""
    decoding: Decoding
    templated: bool = False
    """The prompts were rendered by `render_chat`: they hold the model's special tokens already."""
    client: str = ""
    """Whose sample it is: clients that wait take turns."""


@dataclass(frozen=True)
class Continuation:
    """A text, with what closes it, whose likelihood is asked for after `opening`, a `passage` and `between`.

    Each part is tokenised on its own, special tokens in the passage and the text as plain text: a text has the same
    tokens after every passage, and prompts that begin alike share what was computed for it.
    """

    opening: str
    passage: str
    between: str
    text: str
    closing: str = ""
    truncate: bool = True
    """Cut a passage or text that is too long; otherwise `PromptTooLong` is raised for it."""
    client: str = ""
    """As a sample's."""


@dataclass(frozen=True)
class Completion:
    """What the engine wrote, up to the closing quote, which is not part of `text`."""

    text: str
    end: End
    """`length` if `max_tokens` came before the closing quote, `line_break` if a line break did, `inner_quote` if the
    quote opened a quotation inside the sentence."""
    tokens: int


class Turn(TypedDict):
    """One message of a chat."""

    role: Literal["user", "assistant"]
    content: str


class PromptTooLong(Exception):
    """The prompts with their output don't fit into the engine. The message gives both lengths."""


class TextTooLong(PromptTooLong):
    """A continuation's text leaves no room for a passage, whichever it is. The message gives both lengths."""


class NoChatTemplate(Exception):
    """The teacher's tokenizer brings no chat template: it is a base model."""


class EngineDead(Exception):
    """The engine has failed and will not answer again; the process must be started anew."""


class Engine(Protocol):
    """A running language model."""

    state: str
    """`ok`, `starting`, or why it stopped; for readiness."""
    lanes_running: int
    """Prompts that decode now."""
    replays: int
    """Samples that fell out of lockstep and were made again; 0 unless something is wrong."""
    tokens_drawn: int
    """Tokens of finished sentences; a token counts once, however many lanes it has."""

    @property
    def capacity(self) -> int:
        """How many prompts are worth asking for at one time."""

    async def start(self) -> None:
        """Load the model. Raises whatever the library raises."""

    def stop(self) -> None:
        """End the engine; calls that still wait raise `EngineDead` or are cancelled."""

    def render_chat(self, turns: Sequence[Turn]) -> str:
        """As `TeacherTokenizer.render_chat`. Like `complete`, only after `start`."""

    async def complete(self, sample: Sample) -> Completion:
        """Write one sentence. Cancelling the call frees the engine. Raises `PromptTooLong` or `EngineDead`."""

    async def log_likelihoods(self, continuation: Continuation) -> tuple[float, ...]:
        """Natural log-probabilities of the tokens of the text and its closing, whatever else is in the batch.

        Cancelling the call frees the engine. Raises `PromptTooLong`, `TextTooLong` or `EngineDead`.
        """
