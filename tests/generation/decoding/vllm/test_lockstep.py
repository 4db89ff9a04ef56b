"""Lanes in vLLM: exact against transformers, never out of step, whatever is forced on them."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from services.generation.decoding.base import Completion, Decoding, End, EngineDead, PromptTooLong, Sample
from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.decoding.vllm import processor
from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.settings import GenerationSettings
from shared.precision import dtype_for
from tests.support.decoding import (
    SENTENCES,
    WIDE,
    assert_exact,
    complete_all,
    lanes,
    pass_over_processor,
    recorded_draws,
    samples,
)

pytestmark = pytest.mark.anyio


async def test_exact_on_the_tiny_teacher(engine: VllmEngine, tiny_teacher: Path) -> None:
    wanted = samples()
    with recorded_draws() as recorder:
        completions = await complete_all(engine, wanted)
    assert (
        assert_exact(str(tiny_teacher), wanted, recorder) == sum(completion.tokens for completion in completions) > 60
    )
    # The lanes must matter, or this test would prove nothing.
    plain = [Sample(sample.prompts[:1], sample.seed, sample.decoding) for sample in wanted if len(sample.prompts) > 1]
    debiased = [written for written, sample in zip(completions, wanted, strict=True) if len(sample.prompts) > 1]
    assert await complete_all(engine, plain) != debiased


async def test_the_transformers_engine_writes_the_same_sentences(engine: VllmEngine, tiny_teacher: Path) -> None:
    reference = TransformersEngine(str(tiny_teacher), GenerationSettings(dtype="float32", max_model_len=256))
    assert reference.state == "starting"
    await reference.start()
    assert reference.state == "ok"
    for decoding in (WIDE, Decoding(), Decoding(temperature=0.7, top_k=0, top_p=0.8, decay_constant=50.0)):
        wanted = samples(decoding)
        assert await asyncio.gather(*map(reference.complete, wanted)) == await complete_all(engine, wanted)
    with pytest.raises(PromptTooLong, match="300 tokens"):
        await reference.complete(Sample(("word1 " * 300,), 1, WIDE))
    reference.stop()
    with pytest.raises(EngineDead):
        await reference.complete(samples()[0])


@pytest.mark.slow
async def test_the_transformers_engine_writes_the_same_sentences_together(tiny_teacher: Path) -> None:
    settings = GenerationSettings(dtype="float32", max_model_len=256)
    alone, together = (TransformersEngine(str(tiny_teacher), settings) for _ in range(2))
    await asyncio.gather(alone.start(), together.start())
    alone.batch_lanes, together.batch_lanes = 1, 40
    assert (alone.capacity, together.capacity) == (8, 40)
    free = Decoding(temperature=3.0, top_k=0, top_p=1.0, max_tokens=30, line_breaks="reject")
    wanted = [*samples(WIDE), *samples(Decoding(max_tokens=12, decay_constant=0.0)), *samples(free)]
    long = Sample(("word1 " * 300,), 1, WIDE)
    calls = [asyncio.create_task(together.complete(sample)) for sample in (*wanted, long, wanted[0])]
    calls[-1].cancel()
    *written, refused, cancelled = await asyncio.gather(*calls, return_exceptions=True)
    assert written == list(await asyncio.gather(*map(alone.complete, wanted)))
    assert {one.end for one in written if isinstance(one, Completion)} == set(get_args(End))
    assert isinstance(refused, PromptTooLong)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert together.lanes_running == 0
    assert together.tokens_drawn == alone.tokens_drawn
    alone.stop()
    together.stop()


async def test_same_seed_same_sentence_whatever_else_runs(engine: VllmEngine) -> None:
    wanted = samples(Decoding())
    together = await complete_all(engine, wanted)
    alone = [await engine.complete(sample) for sample in wanted[::4]]
    assert alone == together[::4]
    assert await complete_all(engine, wanted[::-1]) == together[::-1]


async def test_equal_prompts_and_no_decay_are_plain_sampling(engine: VllmEngine) -> None:
    prompts = lanes("0", SENTENCES[0])
    plain = await engine.complete(Sample(prompts[:1], 5, WIDE))
    assert await engine.complete(Sample((prompts[0],) * 3, 5, WIDE)) == plain
    without_decay = WIDE.model_copy(update={"decay_constant": 0.0})
    assert await engine.complete(Sample(prompts, 5, without_decay)) == plain
    assert await engine.complete(Sample((prompts[0], *prompts[:0:-1]), 5, WIDE)) == await engine.complete(
        Sample(prompts, 5, WIDE)
    )


async def test_nothing_banned_is_ever_written(engine: VllmEngine) -> None:
    hot = Decoding(temperature=5.0, top_k=0, top_p=1.0, max_tokens=60)
    for completion in await complete_all(engine, samples(hot, count=4)):
        assert "\n" not in completion.text
        assert '"' not in completion.text
        assert "<|" not in completion.text


async def test_unclosed_sentences_say_so(engine: VllmEngine) -> None:
    short = await complete_all(engine, samples(Decoding(top_k=0, top_p=1.0, max_tokens=2), count=3))
    assert {completion.end for completion in short} == {"quote", "length"}
    assert all(completion.tokens == 2 for completion in short if completion.end == "length")


async def test_too_long_prompts_are_refused_and_harm_nobody(engine: VllmEngine) -> None:
    long = Sample(("word1 " * 300,), 1, WIDE)
    good = samples(count=1)[0]
    refused, fine = await asyncio.gather(engine.complete(long), engine.complete(good), return_exceptions=True)
    assert isinstance(refused, PromptTooLong)
    assert "300 tokens" in str(refused)
    assert isinstance(fine, Completion)


async def test_cancelled_samples_leave_whole(engine: VllmEngine) -> None:
    wanted = samples(Decoding(top_k=0, top_p=1.0, max_tokens=100))
    expected = await complete_all(engine, wanted)
    tasks = [asyncio.create_task(engine.complete(sample)) for sample in wanted]
    await asyncio.sleep(0.05)  # some run, some wait
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert done[1::2] == expected[1::2]
    again = await complete_all(engine, wanted)  # the engine is as good as before
    assert again == expected
    assert engine.lockstep.lanes_running == 0
    assert engine.lockstep.idle
    assert engine.lockstep.replays == 0


def run_module(*arguments: str) -> None:
    """In a process of its own, which must end well."""
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    print(done.stdout)


@pytest.mark.vllm
@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_forced_faults_are_replayed_and_change_nothing(runner: str, tiny_teacher: Path) -> None:
    """Split groups, chunked prompts and preemptions, without admission control: see forced_faults.py.

    In a process of its own: an engine can't be built with other limits beside the session's.
    """
    run_module("tests.support.forced_faults", runner, str(tiny_teacher))


@pytest.mark.vllm
@pytest.mark.timeout(600)  # minutes on two cores without AVX-512
@pytest.mark.parametrize("dtype", sorted({"float32", dtype_for("auto", torch.cuda.is_available())}))
def test_the_default_teacher(dtype: str) -> None:
    """The real thing, exact in float32, and in any company and on every task in the format that it is used in.

    In a process of its own: another engine, and more memory than a test session should keep. In bfloat16 roundings
    would tell a sentence what else is in the batch.
    """
    run_module("tests.support.default_teacher", dtype)


async def test_tokens_that_the_processor_did_not_draw_are_never_let_out(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trace: should vLLM pass over the processor, even a sample with one lane is void, and replayed."""
    wanted = [sample for sample in samples() if len(sample.prompts) == 1]
    right = await complete_all(engine, wanted)
    passed_over = pass_over_processor(monkeypatch, times=3)
    before = engine.lockstep.replays
    assert await complete_all(engine, wanted) == right
    assert passed_over() == 3
    assert engine.lockstep.replays > before
    engine.lockstep.replays = before  # the other tests' engine is to be without blemish
    assert not processor.pending_traces


async def test_line_breaks_end_a_sentence_where_they_are_not_banned(engine: VllmEngine, tiny_teacher: Path) -> None:
    hot = Decoding(temperature=3.0, top_k=0, top_p=1.0, max_tokens=60)
    free = hot.model_copy(update={"line_breaks": "reject"})
    mixed = await complete_all(engine, samples(hot, count=8) + samples(free, count=8))
    banned, open_ = mixed[:72], mixed[72:]
    assert "line_break" not in {completion.end for completion in banned}
    assert "line_break" in {completion.end for completion in open_}
    reference = TransformersEngine(str(tiny_teacher), GenerationSettings(dtype="float32", max_model_len=256))
    await reference.start()
    assert await asyncio.gather(*map(reference.complete, samples(free))) == open_[:18]
    reference.stop()
