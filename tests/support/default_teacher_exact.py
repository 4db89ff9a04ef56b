"""Run by test_lockstep.py: the default teacher in float32, every step of 18 sentences against transformers."""

import asyncio
import os

os.environ["HF_HUB_OFFLINE"] = "1"

from services.generation.decoding.base import Decoding
from services.generation.decoding.vllm import processor
from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.settings import GenerationSettings
from shared import teacher
from shared.settings import Settings
from tests.generation.decoding.vllm.test_lockstep import Trace, assert_exact, complete_all, samples


async def main() -> None:
    """Fails with an AssertionError where a distribution differs."""
    model = teacher.locate("default", Settings().cache_dir)
    engine = VllmEngine(model, GenerationSettings(dtype="float32", max_lanes=32))
    await engine.start()
    trace = Trace()
    processor.observer = trace
    wanted = samples(Decoding(max_tokens=12), exemplars=1)
    completions = await complete_all(engine, wanted)
    engine.stop()
    steps = assert_exact(model, wanted, trace)
    assert steps == sum(completion.tokens for completion in completions)
    assert steps > 100


asyncio.run(main())
