"""Vectors in smaller types of numbers: int8 by the version's range, or a bit for each number."""

from typing import Any, Literal

import numpy as np

from services.embedding.models.base import Vectors

NumberType = Literal["float", "int8", "uint8", "binary", "ubinary"]


def quantise(kind: NumberType, vectors: Vectors, int8_range: float) -> Any:
    """`vectors` as they are, or in a smaller type: [vectors, dimensions], or [vectors, dimensions / 8] for bits.

    int8 is `vectors * 127 / int8_range`, rounded; what is larger becomes 127. All vectors of a version share the range,
    so that dot products stay comparable. uint8 is int8 + 128. ubinary has a bit for each number above 0, the first one
    highest; binary is ubinary - 128. These are sentence-transformers' conventions for bits, and Cohere's.
    """
    if kind == "float":
        return vectors
    if kind in ("int8", "uint8"):
        scaled = np.rint(vectors * np.float32(127 / int8_range)).clip(-127, 127).astype(np.int8)
        return scaled if kind == "int8" else (scaled.astype(np.int16) + 128).astype(np.uint8)
    bits = np.packbits(vectors > 0, axis=1)
    return bits if kind == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
