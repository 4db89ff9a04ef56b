"""Answers as bytes and headers: vectors as JSON numbers or base64, and what an answer says of itself."""

import asyncio
from collections.abc import Sequence

import orjson
import pybase64

from services.embedding.models.base import Vectors
from services.embedding.serving.service import EmbedResult

VERSION_HEADER = "x-pairwright-version"
NUMBERS_AT_ONCE = 65_536
"""Numbers formatted before other requests get their turn on the event loop: a millisecond or two."""


async def json_vectors(vectors: Vectors) -> list[bytes]:
    """Each vector as a JSON array, each number with the fewest digits that name its float32. Finite values only."""
    parts: list[bytes] = []
    step = max(1, NUMBERS_AT_ONCE // vectors.shape[1])
    for start in range(0, len(vectors), step):
        if start:
            await asyncio.sleep(0)
        parts.extend(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in vectors[start : start + step])
    return parts


def base64_vectors(vectors: Vectors) -> list[bytes]:
    """Each vector as a JSON string: base64 of little-endian float32, which is what OpenAI's clients decode."""
    return [b'"' + pybase64.b64encode(row.tobytes()) + b'"' for row in vectors.astype("<f4", copy=False)]


def json_array(items: Sequence[bytes]) -> bytes:
    """A JSON array of items that are JSON already."""
    return b"[" + b",".join(items) + b"]"


def answer_headers(result: EmbedResult) -> dict[str, str]:
    """What every answer says of itself: its version, and text-embeddings-inference's headers, in milliseconds."""
    seconds = {
        "x-compute-time": result.total_s,
        "x-total-time": result.total_s,
        "x-tokenization-time": result.tokenise_s,
        "x-queue-time": result.queue_s,
        "x-inference-time": result.inference_s,
    }
    headers = {
        VERSION_HEADER: result.version,
        "x-compute-type": "cpu",
        "x-compute-characters": str(result.chars),
        "x-compute-tokens": str(result.tokens),
        **{name: str(round(value * 1000)) for name, value in seconds.items()},
    }
    if result.truncated:
        headers["x-pairwright-truncated"] = str(result.truncated)
    if result.windows:
        headers["x-pairwright-windows"] = str(result.windows)
    return headers
