"""Answers as bytes and headers: vectors as JSON numbers or base64, and what an answer says of itself."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy.typing as npt
import orjson
import pybase64
from fastapi import Response

from services.embedding.models.base import Vectors
from services.embedding.serving.quantise import NumberType, quantise
from services.embedding.serving.service import EmbedResult

Kind = NumberType | Literal["base64"]
VERSION_HEADER = "x-pairwright-version"
NUMBERS_AT_ONCE = 65_536
"""Numbers formatted before other requests get their turn on the event loop: a millisecond or two."""


async def write_vectors(kind: Kind, result: EmbedResult, writing: asyncio.Lock) -> list[bytes]:
    """Each vector as JSON: an array of numbers of this type, or a string."""
    if kind == "base64":
        return base64_vectors(result.vectors)
    return await json_vectors(quantise(kind, result.vectors, result.int8_range), writing)


async def json_vectors(vectors: npt.NDArray[Any], writing: asyncio.Lock) -> list[bytes]:
    """Each row as a JSON array, each number with the fewest digits that name its float32. Finite values only.

    Large answers are written one after the other, by `writing`: half-written, each would hold its memory twice.
    """
    parts: list[bytes] = []
    step = max(1, NUMBERS_AT_ONCE // vectors.shape[1])
    async with writing if len(vectors) > step else contextlib.nullcontext():
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


def json_response(content: bytes, headers: dict[str, str]) -> Response:
    """`content` is JSON already."""
    return Response(content, media_type="application/json", headers=headers)


def answer(content: bytes, result: EmbedResult) -> Response:
    """JSON, with what it says of itself: its version, and text-embeddings-inference's headers, in milliseconds."""
    headers = {
        VERSION_HEADER: result.version,
        "x-compute-type": "cpu",
        "x-compute-characters": str(result.queued.chars),
        "x-compute-tokens": str(result.tokens),
        "x-compute-time": str(round(result.total_s * 1000)),
        "x-total-time": str(round(result.total_s * 1000)),
        "x-tokenization-time": str(round(result.queued.tokenise_s * 1000)),
        "x-queue-time": str(round(result.queued.queue_s * 1000)),
        "x-inference-time": str(round(result.queued.inference_s * 1000)),
    }
    if result.unknown:
        headers["x-pairwright-unknown"] = str(result.unknown)
    if result.truncated:
        headers["x-pairwright-truncated"] = str(result.truncated)
    if result.windows:
        headers["x-pairwright-windows"] = str(result.windows)
    return json_response(content, headers)
