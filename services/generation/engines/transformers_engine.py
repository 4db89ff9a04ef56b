"""The plain engine: DINO's decoding on transformers, one sample at a time, its lanes as rows of one batch.

It is the reference that the vLLM engine is tested against, and the fallback where vLLM has no build. It is many times
slower: nothing is shared between samples.
"""

import asyncio
import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from services.generation.engine import Completion, EngineDead, NoChatTemplate, PromptTooLong, Sample, Turn
from services.generation.engines.chat import render_chat
from services.generation.engines.precision import dtype_for
from services.generation.engines.vocabulary import Vocabulary, cut, read_vocabulary
from services.generation.settings import GenerationSettings


class TransformersEngine:
    """Completes samples with transformers, in a thread of its own."""

    capacity = 8
    """Samples that wait are cheap; more of them make nothing faster."""
    replays = 0
    """Rows of one batch can't fall out of lockstep."""

    def __init__(self, model: str, settings: GenerationSettings) -> None:
        self._name, self._settings = model, settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers-engine")
        self._state = "starting"
        self._writer: _Writer | None = None
        self.lanes_running = 0
        """Prompts that decode now."""
        self.tokens_drawn = 0
        """Of finished sentences."""

    @property
    def state(self) -> str:
        """`ok`, `starting`, or why it ended."""
        return self._state

    async def start(self) -> None:
        """Load the model. Raises whatever transformers raises."""
        loop = asyncio.get_running_loop()
        self._writer = await loop.run_in_executor(self._thread, partial(_Writer, self._name, self._settings))
        self._state = "ok"

    def stop(self) -> None:
        """End after the sample under way; calls that still wait are cancelled."""
        self._state = "stopped"
        self._thread.shutdown(wait=True, cancel_futures=True)

    def render_chat(self, turns: Sequence[Turn]) -> str:
        """A prompt in the teacher's chat template. Raises `NoChatTemplate`."""
        if self._writer is None:
            raise NoChatTemplate("the model was never loaded")
        return render_chat(self._writer.tokenizer, turns)

    async def complete(self, sample: Sample) -> Completion:
        """Write one sentence. Raises `PromptTooLong` or `EngineDead`."""
        if self._state not in ("ok", "starting"):
            raise EngineDead(self._state)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._write, sample)

    def _write(self, sample: Sample) -> Completion:
        if self._writer is None:
            raise EngineDead("the model was never loaded")
        self.lanes_running = len(sample.prompts)
        try:
            completion = self._writer.write(sample)
        finally:
            self.lanes_running = 0
        self.tokens_drawn += completion.tokens
        return completion


class _Writer:
    """The model and what it needs to write a sentence."""

    def __init__(self, name: str, settings: GenerationSettings) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        on_gpu = torch.cuda.is_available()
        self._device, dtype = "cuda" if on_gpu else "cpu", dtype_for(settings.dtype, on_gpu)
        self._model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(self._device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        config = self._model.config.get_text_config()
        self._vocabulary: Vocabulary = read_vocabulary(self.tokenizer, config.vocab_size)
        self._never = {
            line_breaks: torch.tensor(self._vocabulary.never(line_breaks), device=self._device)
            for line_breaks in (False, True)
        }
        self._longest = min(settings.max_model_len, getattr(config, "max_position_embeddings", settings.max_model_len))
        self._takes_positions = "position_ids" in inspect.signature(self._model.forward).parameters

    def write(self, sample: Sample) -> Completion:
        """One sentence. Raises `PromptTooLong`."""
        prompts = sample.prompts if sample.decoding.decay_constant > 0 else sample.prompts[:1]
        lanes = [self.tokenizer(prompt, add_special_tokens=not sample.templated).input_ids for prompt in prompts]
        longest = max(map(len, lanes))
        if longest + sample.decoding.max_tokens > self._longest:
            raise PromptTooLong(
                f"a prompt of {longest} tokens with {sample.decoding.max_tokens} to write exceeds the engine's "
                f"{self._longest}"
            )
        tokens = self._decode(lanes, sample)
        text, end = cut(self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
        return Completion(text, end, len(tokens))

    def _decode(self, lanes: list[list[int]], sample: Sample) -> list[int]:
        """The drawn tokens, the one that stopped it included."""
        import torch

        width = max(map(len, lanes))
        pad = self._vocabulary.poison  # any token does: the mask hides it
        fed = torch.tensor([[pad] * (width - len(lane)) + lane for lane in lanes], device=self._device)
        mask = torch.tensor([[0] * (width - len(lane)) + [1] * len(lane) for lane in lanes], device=self._device)
        cache: Any = None
        ends = set(self._vocabulary.ends(sample.decoding.line_breaks == "reject"))
        tokens: list[int] = []
        with torch.inference_mode():
            while len(tokens) < sample.decoding.max_tokens:
                # Lanes differ in length: each counts positions from its own first token.
                positions = (mask.cumsum(dim=1) - 1).clamp_min(0)[:, -fed.shape[1] :]
                more: dict[str, Any] = {"position_ids": positions} if self._takes_positions else {}
                output = self._model(fed, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
                cache = output.past_key_values
                tokens.append(self._draw(output.logits[:, -1], sample, step=len(tokens)))
                if tokens[-1] in ends:
                    break
                fed = torch.full((len(lanes), 1), tokens[-1], device=self._device)
                mask = torch.cat([mask, mask.new_ones(len(lanes), 1)], dim=1)
        return tokens

    def _draw(self, logits: Any, sample: Sample, step: int) -> int:
        """The next token, for all lanes. logits: [lanes, vocabulary]."""
        import torch

        from services.generation.debias import debias, draw, draw_keys

        decoding = sample.decoding
        logits = logits.float()
        logits[:, self._never[decoding.line_breaks == "reject"]] = float("-inf")
        one = partial(torch.full, (1,))
        probabilities = debias(
            logits[None],
            one(decoding.decay_constant, device=self._device),
            one(decoding.floor, device=self._device),
        )
        keys = draw_keys(torch.tensor([sample.seed]), torch.tensor([step]))
        token = draw(probabilities, keys, one(decoding.temperature), one(decoding.top_k), one(decoding.top_p))
        return int(token)
