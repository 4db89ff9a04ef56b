"""The engine that the tests of a cluster compare with."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.settings import GenerationSettings


@pytest.fixture(scope="module")
def own() -> GenerationSettings:
    return GenerationSettings(engine="transformers", dtype="float32", max_model_len=256)


@pytest.fixture(scope="module")
def plain_engine(tiny_teacher: Path, own: GenerationSettings) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(str(tiny_teacher), own)
    asyncio.run(engine.start())
    yield engine
    engine.stop()
