"""Run by test_lockstep.py: the default teacher in bfloat16, where roundings would show what else is in the batch."""

import asyncio
import os

os.environ["HF_HUB_OFFLINE"] = "1"

from services.generation.engine import Decoding, Sample
from services.generation.engines.vllm_engine import VllmEngine
from services.generation.settings import GenerationSettings
from shared import teacher
from shared.settings import Settings
from tests.generation.test_lockstep import complete_all, lanes

SENTENCES = [f"The {noun} is {verb} in the {place}." for noun in ("dog", "boy", "nurse", "train")
             for verb in ("waiting", "singing") for place in ("garden", "rain")]  # fmt: skip


async def main() -> None:
    """Fails with an AssertionError where company in the batch changes a sentence."""
    engine = VllmEngine(teacher.locate("default", Settings().cache_dir), GenerationSettings(dtype="bfloat16"))
    await engine.start()
    wanted = [
        Sample(lanes(label, sentence, 2), seed=number, decoding=Decoding())
        for number, (sentence, label) in enumerate((s, label) for s in SENTENCES for label in ("1", "0.5", "0"))
    ]
    together = await complete_all(engine, wanted)
    assert await complete_all(engine, wanted[::-1]) == together[::-1]
    assert [await engine.complete(sample) for sample in wanted[::8]] == together[::8]
    assert await complete_all(engine, wanted[5:12]) == together[5:12]
    assert engine.lockstep.replays == 0
    engine.stop()


asyncio.run(main())
