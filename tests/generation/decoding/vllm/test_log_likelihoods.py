"""How likely a text is after a prompt: the same from both engines and from plain transformers, beside any job."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.generation.decoding.base import Continuation, Engine, EngineDead, PromptTooLong, TextTooLong
from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.decoding.vllm import processor
from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.settings import GenerationSettings
from tests.support.decoding import complete_all, pass_over_processor, samples

pytestmark = pytest.mark.anyio

PASSAGES = ["word1 word2 word3", "", *(f"word{number} " * number for number in range(10, 60, 5))]
QUERIES = ["word7", "word3 word2 word1 word9 word8", "word50 word51"]
CONTINUATIONS = [
    Continuation("word100 word101", passage, "word102", query, "word103") for passage in PASSAGES for query in QUERIES
]
LONG = Continuation("word100", "word1 " * 300, "word102", "word7 word8", "word103")


async def read(engine: Engine, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
    """The log-likelihoods of all, asked for at one time."""
    return await asyncio.gather(*map(engine.log_likelihoods, continuations))


def by_transformers(folder: Path, texts: Sequence[tuple[str, str]]) -> list[list[float]]:
    """The same of (prompt, text) from the model's own logits. The tiny teacher's tokens are words, joined by blanks."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    values = []
    for prompt, text in texts:
        before, ids = tokenizer(prompt).input_ids, tokenizer(text).input_ids
        with torch.no_grad():
            logs = model(torch.tensor([before + ids])).logits[0].log_softmax(-1)
        values.append([float(logs[len(before) + place - 1, token]) for place, token in enumerate(ids)])
    return values


async def test_both_engines_agree_with_transformers(engine: VllmEngine, tiny_teacher: Path) -> None:
    reference = TransformersEngine(str(tiny_teacher), GenerationSettings(dtype="float32", max_model_len=256))
    await reference.start()
    ours, theirs = await read(engine, CONTINUATIONS), await read(reference, CONTINUATIONS)
    parts = [(f"word100 word101 {one.passage} word102", f"{one.text} word103") for one in CONTINUATIONS]
    for one, other, expected in zip(ours, theirs, by_transformers(tiny_teacher, parts), strict=True):
        assert one == pytest.approx(expected, abs=1e-3)
        assert other == pytest.approx(expected, abs=1e-3)
    assert len({sum(values) for values in ours}) == len(CONTINUATIONS)  # a passage matters
    for asked in (engine, reference):
        with pytest.raises(PromptTooLong, match="it has 300 tokens; beside this text the engine reads 251"):
            await asked.log_likelihoods(
                Continuation(LONG.opening, LONG.passage, LONG.between, LONG.text, "word103", False)
            )
        with pytest.raises(TextTooLong, match="it has 300 tokens; the engine reads 127"):
            await asked.log_likelihoods(Continuation("", "word1", "word2", LONG.passage, "", False))
    assert await read(engine, [LONG]) == [pytest.approx(values, abs=1e-3) for values in await read(reference, [LONG])]
    reference.stop()
    with pytest.raises(EngineDead):
        await reference.log_likelihoods(LONG)


async def test_neither_order_nor_company_changes_a_bit(engine: VllmEngine) -> None:
    drawn, replays = engine.tokens_drawn, engine.replays
    alone = [await engine.log_likelihoods(continuation) for continuation in CONTINUATIONS]
    assert await read(engine, CONTINUATIONS[::-1]) == alone[::-1]
    assert engine.tokens_drawn == drawn  # nothing was written
    wanted = samples(count=3)
    sentences = await complete_all(engine, wanted)
    again, likelihoods = await asyncio.gather(complete_all(engine, wanted), read(engine, CONTINUATIONS))
    assert likelihoods == alone
    assert again == sentences
    assert engine.replays == replays


async def test_special_tokens_and_unknown_words_of_a_text_are_text(engine: VllmEngine) -> None:
    """The teacher's end token would otherwise abort the lane, again and again, until the engine is given up."""
    plain = Continuation("word100", "word1", "word102", "word7 word8", "word103")
    tricky = Continuation("word100", "word1 <|end|>", "word102", "word7 <|end|> word8", "word103")
    assert await read(engine, [tricky]) == await read(engine, [plain])
    (unknown,) = await read(engine, [Continuation("word100", "nowhere", "word102", "never seen", "word103")])
    assert len(unknown) == 3


async def test_cancelled_texts_leave_the_engine(engine: VllmEngine) -> None:
    expected = await read(engine, CONTINUATIONS)
    tasks = [asyncio.create_task(engine.log_likelihoods(continuation)) for continuation in CONTINUATIONS]
    await asyncio.sleep(0.02)
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert done[1::2] == expected[1::2]
    await read(engine, CONTINUATIONS[:1])
    assert engine.lockstep.idle
    assert not processor.pending_traces


async def test_a_token_that_was_not_given_voids_the_text(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = await read(engine, CONTINUATIONS)
    passed_over = pass_over_processor(monkeypatch, times=3)
    before = engine.lockstep.replays
    assert await read(engine, CONTINUATIONS) == expected
    assert passed_over() == 3
    assert engine.lockstep.replays > before
    engine.lockstep.replays = before  # the other tests' engine is to be without blemish
