"""Run by test_lockstep.py: a tight engine, first with admission control, then without, where lanes must fall apart.

`python -m tests.support.forced_faults v1|v2 TEACHER`. V2, which GPUs run, needs Triton; here its kernels run in
Triton's own interpreter: slow, but the same code.
"""

import asyncio
import dataclasses
import os
import sys
import types
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from services.generation.decoding.vllm.admission import Limits


class Unlimited(Limits):
    """Any number of samples fits: admission control switched off."""

    def fits(self, *_: Any) -> bool:
        return True


def use_v2_runner() -> None:
    """Make vLLM's V2 runner usable without a GPU. Must run before vllm is imported."""
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    import triton.backends

    class Driver:
        @staticmethod
        def is_active() -> bool:
            return True

    triton.backends.backends["cpu"] = types.SimpleNamespace(driver=Driver, compiler=None)


async def main(runner: str, model: str) -> None:
    """Raises AssertionError if a fault goes unseen or changes a sentence."""
    from services.generation.decoding.base import Continuation, Decoding
    from services.generation.decoding.vllm.engine import VllmEngine
    from services.generation.settings import GenerationSettings
    from tests.support.decoding import complete_all, samples

    v2 = runner == "v2"
    # 8 lanes, 100 tokens a step, 10 usable blocks of 32 tokens: a sample fits, a crowd doesn't.
    tight = {"max_model_len": 96, "max_num_batched_tokens": 100, "num_gpu_blocks_override": 11}
    engine = VllmEngine(model, GenerationSettings(dtype="float32", max_lanes=8, vllm_arguments=tight))
    await engine.start()
    assert engine.lockstep._engine.vllm_config.use_v2_model_runner == v2
    scheduler = engine.lockstep._engine.engine_core.engine_core.scheduler
    preemptions = 0
    preempt = scheduler._preempt_request

    def counting(*arguments: object, **named: object) -> object:
        nonlocal preemptions
        preemptions += 1
        return preempt(*arguments, **named)

    scheduler._preempt_request = counting
    decoding = Decoding(top_k=0, top_p=1.0, max_tokens=6 if v2 else 40)
    wanted = samples(decoding, count=1 if v2 else 4, exemplars=0)
    # Texts whose likelihood is asked for come between them.
    texts = [
        Continuation("word1", f"word{number} " * 20, "word2", "word3 word4 word5")
        for number in range(2 if v2 else len(wanted))
    ]

    async def all_at_once() -> tuple[list[Any], list[Any]]:
        likelihoods = asyncio.gather(*map(engine.log_likelihoods, texts))
        return await complete_all(engine, wanted), await likelihoods

    safe, likely = await all_at_once()
    assert engine.lockstep.replays == 0
    assert preemptions == 0

    lockstep = engine.lockstep
    lockstep.limits, lockstep.max_replays = Unlimited(**dataclasses.asdict(lockstep.limits)), 1000
    faulty, likelihoods = await all_at_once()
    print(f"{runner}: {len(wanted)} samples, {lockstep.replays} replays, {preemptions} preemptions")
    assert faulty == safe
    assert likelihoods == likely
    assert lockstep.replays > 0
    if not v2:
        assert preemptions > 0

    await a_sample_that_cannot_hold_kills_the_engine_loudly(engine, wanted, safe)


async def a_sample_that_cannot_hold_kills_the_engine_loudly(engine: Any, wanted: list[Any], safe: list[Any]) -> None:
    """Too many replays: every call gets its right sentence or `EngineDead`, never a wrong one."""
    from services.generation.decoding.base import Completion, EngineDead

    engine.lockstep.max_replays = 0
    answers = await asyncio.gather(*(engine.complete(sample) for sample in wanted), return_exceptions=True)
    dead = [answer for answer in answers if not isinstance(answer, Completion)]
    assert dead
    assert all(isinstance(answer, EngineDead) for answer in dead)
    assert all(answer == right for answer, right in zip(answers, safe, strict=True) if isinstance(answer, Completion))
    assert "out of lockstep" in engine.state
    try:
        await engine.complete(wanted[0])
    except EngineDead:
        return
    raise AssertionError("a dead engine answered")


if __name__ == "__main__":
    if sys.argv[1] == "v2":
        use_v2_runner()
    asyncio.run(main(sys.argv[1], sys.argv[2]))
