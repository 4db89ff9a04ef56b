"""Vectors as bytes lose nothing."""

import asyncio
import json

import numpy as np
import pybase64
from hypothesis import given
from hypothesis import strategies as st

from services.embedding.api.serialization import NUMBERS_AT_ONCE, base64_vectors, json_array, json_vectors

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(values=st.lists(FLOATS, min_size=1, max_size=50))
def test_json_names_every_float32_exactly(values: list[float]) -> None:
    vectors = np.asarray([values], dtype=np.float32)
    parsed = json.loads(json_array(asyncio.run(json_vectors(vectors, asyncio.Lock()))))
    assert np.array_equal(np.asarray(parsed, dtype=np.float64).astype(np.float32), vectors)


def test_json_is_shorter_than_doubles() -> None:
    vectors = np.random.default_rng(0).standard_normal((1, 100)).astype(np.float32)
    numbers = asyncio.run(json_vectors(vectors, asyncio.Lock()))[0].decode()[1:-1].split(",")
    assert max(len(number.strip("-").replace(".", "").lstrip("0")) for number in numbers) <= 9


def test_many_rows_keep_their_order() -> None:
    vectors = np.arange(3 * NUMBERS_AT_ONCE, dtype=np.float32).reshape(-1, 64)
    assert json.loads(json_array(asyncio.run(json_vectors(vectors, asyncio.Lock())))) == vectors.tolist()


@given(values=st.lists(FLOATS, min_size=1, max_size=50))
def test_base64_is_little_endian_float32(values: list[float]) -> None:
    vectors = np.asarray([values, values], dtype=np.float32)
    for text in base64_vectors(vectors):
        assert pybase64.b64decode(json.loads(text)) == vectors[0].astype("<f4").tobytes()
