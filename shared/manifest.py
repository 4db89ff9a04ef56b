"""The manifest of a published version: its card, its files, and how it must answer the probe.

The trainer writes it, the embedding service reads it; `model_store` keeps it as `manifest.json`, beside the files.
"""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

VERSION_ID = re.compile(r"^r\d{6}-[0-9a-f]{8}$")
PROBE_SENTENCES = (
    "A man is playing a guitar.",
    "The stock market fell sharply on Monday.",
    "Zürich's café opens at 7 a.m.; it's 3 km away!",
    "no",
)
PROBE_TOLERANCE = 1e-3
INT8_LEAST_COSINE, INT8_LEAST_SPEEDUP = 0.99, 1.1
INT8_MOST_LOST = 0.5  # points of Spearman x 100
ONNX_LEAST_SPEEDUP = 1.0


class FileEntry(BaseModel, frozen=True):
    """One file of a version."""

    sha256: str
    size: int


class OnnxExport(BaseModel, frozen=True):
    """A version's exact export for CPUs: its transformer in ONNX, in float32, as measured at publication."""

    file: str
    """Where it is in the version's folder: from token ids to token vectors."""
    difference: float
    """The largest one between a number of its vectors and of the model's, on the probe and the dev sentences."""
    speedup: float = 0.0
    """Its speed as a multiple of the model's, in batches on one thread of the machine that published it."""
    single_speedup: float = 0.0
    """The same for one sentence at a time."""
    tokenizer: bool = False
    """Whether the version's `tokenizer.json` alone gives the token ids that sentence-transformers gives."""

    @property
    def verdict(self) -> str:
        """ "" when it may stand in for the model, otherwise why not."""
        if not self.difference <= PROBE_TOLERANCE:  # nor for NaN
            return f"its vectors are off by {self.difference:.3g} (at most {PROBE_TOLERANCE})"
        if not min(self.speedup, self.single_speedup) >= ONNX_LEAST_SPEEDUP:
            speedups = f"{self.speedup:.2f} and {self.single_speedup:.2f}"
            return f"it is {speedups} times as fast as the model, in batches and alone"
        return ""


class Int8(BaseModel, frozen=True):
    """How true a version's int8 export is to its exact model, as measured at publication."""

    file: str
    """Where it is in the version's folder: the transformer in ONNX, from token ids to token vectors."""
    cosine: float
    """The lowest one between its vectors and the exact ones, on the probe sentences."""
    dev_cosine: float | None = None
    """Their mean on sentences of the synthetic dev split; None when there is no split."""
    dev_exact: float | None = None
    """Spearman x 100 of the exact model on the dev split."""
    dev_int8: float | None = None
    speedup: float = 0.0
    """Its speed as a multiple of the exact model's, in batches on one thread of the machine that published it."""

    @property
    def verdict(self) -> str:
        """ "" when it may stand in for the exact model, otherwise why not."""
        cosine = min(self.cosine, self.cosine if self.dev_cosine is None else self.dev_cosine)
        if not cosine >= INT8_LEAST_COSINE:  # nor for NaN
            return f"its cosine to the exact model is {cosine:.4f} (at least {INT8_LEAST_COSINE})"
        if self.dev_exact is not None and self.dev_int8 is not None:
            lost = abs(self.dev_exact - self.dev_int8)
            if not lost <= INT8_MOST_LOST:
                return f"its dev score is off by {lost:.2f} points (at most {INT8_MOST_LOST})"
        if not self.speedup >= INT8_LEAST_SPEEDUP:
            return f"it is only {self.speedup:.2f} times as fast as the exact model (at least {INT8_LEAST_SPEEDUP})"
        return ""


class Estimate(BaseModel, frozen=True):
    """How well a student's cosines rank texts as a language model does: partial Spearman x 100, without any label."""

    value: float
    low: float
    """The 95 % interval's ends."""
    high: float


class Card(BaseModel, frozen=True):
    """What the trainer states of a version when it publishes it."""

    base: str
    """The model the student was trained from: a hub id, a path or `default`."""
    parent: str | None = None
    """The version that was current before."""
    round: int = Field(ge=0)
    """0 for the untrained base, which is published first so that `/embed` answers from the start."""
    pairs: int = Field(ge=0)
    dataset: str = "default"
    dataset_hash: str | None = None
    dimensions: int = Field(gt=0)
    matryoshka: list[int] = []
    """Lengths of prefixes of its vectors that training made good alone; [] for none."""
    int8_ranges: dict[int, float] = {}
    """By length, the largest number in its unit vectors of the dev split: what int8 covers. {} where the probe says."""
    max_seq_length: int | None = None
    start: str | None = None
    """The version that training continued from; None from the base."""
    scores: dict[str, float] = {}
    """Metric to value, Spearman x 100, on the *generated* dev split alone; `dev_before` is the base's or start's."""
    estimates: dict[str, dict[str, Estimate]] = {}
    """Label-free estimates by student and kind of task: `candidate` is this version; the others are `base` and versions
    that it was compared with, on the same texts."""
    human_scores: dict[str, dict[str, float]] = {}
    """`before` and `after` on human-scored sets, by name. Kept apart: the two kinds never meet in one figure."""
    selected_by: str | None = None
    """Which pairs chose the checkpoint; None when it is the last one."""
    split: dict[str, Any] = {}
    """How many pairs were trained on, held out and left out."""
    gate: dict[str, Any] = {}
    """What the gate compared, and its reason in one sentence."""
    held: bool = False
    """The gate had no evidence: a person decides."""
    recipe: dict[str, Any] = {}
    onnx: OnnxExport | None = None
    """Its exact export for CPUs; None when there is none."""
    int8: Int8 | None = None
    """Its int8 export; None when there is none."""
    training: dict[str, Any] = {}
    """What the run took: seconds, pairs a second, memory. Differs from run to run, unlike all above."""
    code_version: str = "unknown"
    epoch: int = 0
    """The fencing token of the trainer that made it."""


class Manifest(Card):
    """A published version: its card, its files and how it must answer the probe."""

    id: str = Field(pattern=VERSION_ID.pattern)
    created: datetime
    files: dict[str, FileEntry]
    probe: list[list[float]]
    """The vectors of `PROBE_SENTENCES`, [4, dimensions], not normalised by us."""
    rejection: str | None = None
    """Why the gate refused or held it; None for a version that the gate published."""


def int8_ranges(vectors: Sequence[Sequence[float]], lengths: Iterable[int]) -> dict[int, float]:
    """For each length, the largest magnitude of a number in `vectors`, cut to it and normalised.

    Where all are zero, four standard deviations of unit vectors whose numbers are all of one size.
    """
    ranges = {}
    for length in lengths:
        largest = 0.0
        for vector in vectors:
            prefix = vector[:length]
            if norm := math.hypot(*prefix):
                largest = max(largest, max(map(abs, prefix)) / norm)
        ranges[length] = largest or min(1.0, 4 / math.sqrt(length))
    return ranges
