"""What the service asks of a loaded version, whatever computes it, and how a version proves itself before it serves."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from shared.model_store import PROBE_SENTENCES, PROBE_TOLERANCE, BrokenVersion, Manifest

Vectors = npt.NDArray[np.float32]
Side = Literal["left", "right"]

WARM_UP_TOKENS = (8, 128)


@dataclass(frozen=True, slots=True)
class Options:
    """How texts are read. Only texts with equal options can share a batch."""

    prompt: str = ""
    """Put before each text, as the version was trained."""
    truncation_side: Side = "right"
    """Which end of a text is cut when it is longer than the version reads."""


@dataclass(slots=True)
class Tokens:
    """One text, tokenised."""

    count: int
    """Tokens that the version reads."""
    total: int
    """Tokens of the whole text; more than `count` when it was truncated."""
    payload: Any
    """What the encoder wants back for `encode`."""


class Encoder(ABC):
    """One version in memory. Used by one thread at a time."""

    padded: bool
    """Whether a batch costs its longest text times its size, or only the sum of its tokens."""
    max_tokens: int | None
    """The longest text that is read whole; None when there is no such limit."""
    prompts: dict[str, str]
    """The version's prompts by name."""
    default_prompt: str
    """The prompt of a caller who names none; mostly empty."""
    pooling: str
    """How token vectors become one, in text-embeddings-inference's word."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    @property
    def version(self) -> str:
        """The version's id."""
        return self.manifest.id

    @abstractmethod
    def tokenise(self, texts: Sequence[str], options: Options) -> list[Tokens]:
        """Tokens of each text, truncated to `max_tokens`."""

    @abstractmethod
    def encode(self, batch: Sequence[Tokens], options: Options) -> Vectors:
        """The vectors of a batch that was tokenised with the same options: float32 [len(batch), dimensions]."""


def prove(encoder: Encoder) -> None:
    """Warm the encoder up and compare its probe vectors with the manifest's. Raises `BrokenVersion`.

    The hashes alone don't do: a folder published with a part missing has the right hashes and the wrong vectors.
    """
    options = Options(prompt=encoder.default_prompt)
    for length in (*WARM_UP_TOKENS, encoder.max_tokens or 0):
        encoder.encode(encoder.tokenise([" ".join(["a"] * length)], options), options)
    manifest = encoder.manifest
    expected = np.asarray(manifest.probe, dtype=np.float32)
    found = encoder.encode(encoder.tokenise(PROBE_SENTENCES, options), options)
    if found.shape != (len(PROBE_SENTENCES), manifest.dimensions) or expected.shape != found.shape:
        raise BrokenVersion(
            f"{manifest.id}: its probe is {list(found.shape)}, the manifest says {manifest.dimensions} dimensions "
            f"and has {list(expected.shape)}"
        )
    difference = float(np.abs(found - expected).max())
    # Written so that a NaN fails too.
    if not difference <= PROBE_TOLERANCE:
        raise BrokenVersion(f"{manifest.id}: its probe vectors are off by {difference:.3g} (at most {PROBE_TOLERANCE})")
