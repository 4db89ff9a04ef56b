"""Vectors as bytes: JSON numbers and base64."""

import asyncio
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pybase64
from pydantic_core import to_json

from services.embedding.encoder import Vectors

ROWS_AT_ONCE = 128
"""Vectors formatted before other requests get their turn on the event loop; 512 dimensions take some 5 ms."""


def shortest(vectors: Vectors) -> npt.NDArray[np.float64]:
    """The vectors as float64 with nine significant digits, which name every float32 exactly.

    Written as they are, float32 values become seventeen-digit doubles: half as long again, and no truer.
    """
    exact = vectors.astype(np.float64)
    with np.errstate(divide="ignore"):
        exponents = np.floor(np.log10(np.abs(exact)))
    scale = 10.0 ** (8 - np.where(np.isfinite(exponents), exponents, 0))
    rounded: npt.NDArray[np.float64] = np.rint(exact * scale) / scale
    return rounded


async def json_vectors(vectors: Vectors) -> list[bytes]:
    """Each vector as a JSON array. Finite values only."""
    parts: list[bytes] = []
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        if start:
            await asyncio.sleep(0)
        parts.extend(to_json(row) for row in shortest(vectors[start : start + ROWS_AT_ONCE]).tolist())
    return parts


def base64_vectors(vectors: Vectors) -> list[bytes]:
    """Each vector as a JSON string: base64 of little-endian float32, which is what OpenAI's clients decode."""
    return [b'"' + pybase64.b64encode(row.tobytes()) + b'"' for row in vectors.astype("<f4", copy=False)]


def json_array(items: Sequence[bytes]) -> bytes:
    """A JSON array of items that are JSON already."""
    return b"[" + b",".join(items) + b"]"
