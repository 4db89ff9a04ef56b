"""What the service asks of a loaded version, whatever computes it, and the smoke test before a version serves."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from shared.manifest import PROBE_SENTENCES, PROBE_TOLERANCE, Manifest, int8_ranges
from shared.model_store import BrokenVersion

Vectors = npt.NDArray[np.float32]
Side = Literal["left", "right"]
Precision = Literal["float32", "bfloat16", "int8"]

LONG_CHARS = 8192
"""A longer text is tokenised apart from others, which would have to wait for it."""
WARM_UP_TOKENS = (8, 128)
LEAST_COSINE = 0.99
"""Of vectors computed with less precision than the version was published with, to its own."""


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How texts are read. Only texts with equal options can share a batch."""

    prompt: str = ""  # put before each text, as the version was trained
    truncation_side: Side = "right"  # which end of a text is cut when it is longer than the version reads


@dataclass(slots=True)
class Tokens:
    """One text, tokenised."""

    count: int  # tokens that the version reads
    total: int  # tokens of the whole text; more than `count` when it was truncated
    payload: Any  # what the encoder needs for `encode`


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text, as `/tokenize` answers it."""

    id: int
    text: str
    special: bool  # it stands for no part of the text
    start: int | None  # its characters in the text, without the prompt; None for special tokens
    stop: int | None


class Encoder(ABC):
    """One version in memory. Its methods may be called from several threads at a time."""

    padded: bool  # whether a batch costs its longest text times its size, or only the sum of its tokens
    batch_tokens: int  # tokens of a batch, padding included, that suit what computes it
    max_tokens: int | None  # of the longest text that is read whole; None when there is no such limit
    prompts: dict[str, str]  # the version's, by name
    default_prompt: str  # of a caller who names none; mostly empty
    pooling: str  # how token vectors become one, in text-embeddings-inference's word
    backend: str  # what computes it: `static`, `torch` or `onnx`
    precision: Precision  # how it computes; the vectors that it gives are float32

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.version = manifest.id
        """The name that it answers with; `dataset@id` for a version of another dataset."""

    @cached_property
    def int8_ranges(self) -> dict[int, float]:
        """By length of its vectors, what int8 covers of unit ones; by the probe, where the manifest has no ranges."""
        manifest = self.manifest
        return manifest.int8_ranges or int8_ranges(manifest.probe, [manifest.dimensions, *manifest.matryoshka])

    @abstractmethod
    def tokenise(self, texts: Sequence[str], options: EncodeOptions) -> list[Tokens]:
        """Tokens of each text, truncated to `max_tokens`."""

    @abstractmethod
    def encode(self, batch: Sequence[Tokens], options: EncodeOptions) -> Vectors:
        """The vectors of a batch that was tokenised with the same options: float32 [len(batch), dimensions]."""

    @abstractmethod
    def windows(self, text: str, options: EncodeOptions) -> list[str]:
        """`text` in consecutive pieces that are each read whole, cut between words where possible."""

    @abstractmethod
    def token_vectors(self, tokens: Tokens, options: EncodeOptions) -> Vectors:
        """What is pooled: a vector for each token that is read, float32 [tokens.count, dimensions]."""

    @abstractmethod
    def list_tokens(self, texts: Sequence[str], prompt: str, add_special_tokens: bool, limit: int) -> list[list[Token]]:
        """Every token of each text; nothing is truncated. Raises ValueError when there are more than `limit` in all."""

    @abstractmethod
    def decode(self, ids: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        """The texts of token ids. Raises ValueError for an id that doesn't exist."""


def smoke_test(encoder: Encoder) -> None:
    """Warm the encoder up and compare its probe vectors with the manifest's. Raises `BrokenVersion`."""
    # Hashes alone don't do: a folder published with a part missing has the right hashes and the wrong vectors.
    options, manifest = EncodeOptions(prompt=encoder.default_prompt), encoder.manifest
    for length in (*WARM_UP_TOKENS, encoder.max_tokens or 0):
        encoder.encode(encoder.tokenise([" ".join(["a"] * length)], options), options)
    expected = np.asarray(manifest.probe, dtype=np.float32)
    probe = encoder.encode(encoder.tokenise(PROBE_SENTENCES, options), options)
    if probe.shape != (len(PROBE_SENTENCES), manifest.dimensions) or expected.shape != probe.shape:
        raise BrokenVersion(
            f"{manifest.id}: its probe is {list(probe.shape)}, the manifest says {manifest.dimensions} dimensions "
            f"and has {list(expected.shape)}"
        )
    # Comparisons are written so that a NaN fails too.
    if encoder.precision != "float32":
        if not (cosine := least_cosine(probe, expected)) >= LEAST_COSINE:
            raise BrokenVersion(
                f"{manifest.id}: in {encoder.precision} its probe vectors have a cosine of {cosine:.4f} to the exact "
                f"ones (at least {LEAST_COSINE}); set PAIRWRIGHT_EMBEDDING_PRECISION=float32"
            )
        return
    if not (difference := float(np.abs(probe - expected).max())) <= PROBE_TOLERANCE:
        raise BrokenVersion(f"{manifest.id}: its probe vectors are off by {difference:.3g} (at most {PROBE_TOLERANCE})")


def least_cosine(some: Vectors, others: Vectors) -> float:
    """The lowest cosine of one row with its counterpart; two zero rows agree. NaN if any value is."""
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    products = np.einsum("ij,ij->i", some, others)
    both_zero = ~some.any(axis=1) & ~others.any(axis=1)
    return float(np.where(both_zero, 1.0, products / np.where(lengths == 0, 1, lengths)).min())
