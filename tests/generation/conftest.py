"""One real vLLM engine on a tiny random teacher for the whole session."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.settings import GenerationSettings
from tests.support.tiny_teacher import make_tiny_teacher


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="session")
def engine(tiny_teacher: Path) -> Iterator[VllmEngine]:
    settings = GenerationSettings(dtype="float32", max_lanes=32, max_batch_tokens=2048, max_model_len=256)
    engine = VllmEngine(str(tiny_teacher), settings)
    asyncio.run(engine.start())
    yield engine
    engine.stop()
