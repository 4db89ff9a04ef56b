"""The plain engine: DINO's decoding on transformers, the lanes of a sample as rows of one batch.

It is the reference that the vLLM engine is tested against, and the fallback where vLLM has no build. On a CPU it writes
one sample at a time, on a GPU those that wait together, up to `max_lanes` prompts; the next ones wait for the last.
"""

import asyncio
import inspect
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, get_args

from services.generation.decoding.base import (
    Completion,
    Continuation,
    EngineDead,
    LineBreaks,
    PromptTooLong,
    Sample,
    Turn,
)
from services.generation.decoding.tokenizer import TeacherTokenizer, check_length
from services.generation.settings import GenerationSettings
from shared.precision import dtype_for

SHRINK = 0.75
"""Rows of ended sentences are taken out of a batch when no more than this share of it still writes."""


class TransformersEngine:
    """Completes samples with transformers, in a thread of its own. Its methods: see `Engine`."""

    replays = 0  # rows of one batch can't fall out of lockstep
    _decoder: "_BatchDecoder"  # since `start`

    def __init__(self, model: str, settings: GenerationSettings) -> None:
        self._model, self._settings = model, settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers-engine")
        self._waiting: deque[tuple[Sample, Future[Completion]]] = deque()
        self.state = "starting"
        self.batch_lanes = 1
        """Prompts in one batch; a sample with more is a batch of its own. `start` raises it on a GPU."""
        self.lanes_running = self.tokens_drawn = 0

    @property
    def capacity(self) -> int:
        return max(self.batch_lanes, 8)  # on a CPU samples that wait are cheap, and more make nothing faster

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._decoder = await loop.run_in_executor(self._thread, _BatchDecoder, self._model, self._settings)
        if self._decoder.on_gpu:
            self.batch_lanes = self._settings.max_lanes
        self.state = "ok"

    def stop(self) -> None:
        """End after the samples under way; calls that still wait are cancelled."""
        self.state = "stopped"
        self._thread.shutdown(wait=True, cancel_futures=True)
        for _, future in self._waiting:
            future.cancel()

    def render_chat(self, turns: Sequence[Turn]) -> str:
        return self._decoder.tokenizer.render_chat(turns)

    async def complete(self, sample: Sample) -> Completion:
        if self.state not in ("ok", "starting"):
            raise EngineDead(self.state)
        future: Future[Completion] = Future()
        self._waiting.append((sample, future))
        self._thread.submit(self._run_batch)
        return await asyncio.wrap_future(future)

    async def log_likelihoods(self, continuation: Continuation) -> tuple[float, ...]:
        if self.state not in ("ok", "starting"):
            raise EngineDead(self.state)
        future = self._thread.submit(lambda: self._decoder.log_likelihoods(continuation))
        return await asyncio.wrap_future(future)

    def _run_batch(self) -> None:
        """Write the samples that have waited longest. Each call of `complete` submits one: the last find none."""
        batch = self._next_batch()
        self.lanes_running = sum(len(sample.prompts) for sample, _ in batch)
        try:
            for place, outcome in self._decoder.decode([sample for sample, _ in batch]):
                sample, future = batch[place]
                self.lanes_running -= len(sample.prompts)
                if isinstance(outcome, PromptTooLong):
                    future.set_exception(outcome)
                else:
                    self.tokens_drawn += outcome.tokens
                    future.set_result(outcome)
        except Exception as error:  # whatever it is, those who wait must hear of it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self.lanes_running = 0

    def _next_batch(self) -> list[tuple[Sample, Future[Completion]]]:
        """One sample, or as many as fit together; cancelled ones are left out."""
        batch: list[tuple[Sample, Future[Completion]]] = []
        room = self.batch_lanes
        while self._waiting and (not batch or len(self._waiting[0][0].prompts) <= room):
            sample, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                room -= len(sample.prompts)
                batch.append((sample, future))
        return batch


@dataclass
class _SampleState:
    """A sample under way: its place in the batch, the token ids of its lanes, and the tokens drawn."""

    place: int
    sample: Sample
    lanes: Sequence[tuple[int, ...]]
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def draw_group(self) -> tuple[int, str]:
        """Samples that agree in this are drawn together."""
        return len(self.lanes), self.sample.decoding.model_dump_json()


class _BatchDecoder:
    """The model and what it needs to write sentences."""

    def __init__(self, name: str, settings: GenerationSettings) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.on_gpu = torch.cuda.is_available()
        self._device, dtype = "cuda" if self.on_gpu else "cpu", dtype_for(settings.dtype, self.on_gpu)
        self._model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(self._device).eval()
        config = self._model.config.get_text_config()
        self.tokenizer = TeacherTokenizer(name, config.vocab_size)
        vocabulary = self.tokenizer.vocabulary
        modes = get_args(LineBreaks)
        self._suppressed = {mode: torch.tensor(vocabulary.suppressed(mode), device=self._device) for mode in modes}
        self._stop_tokens = {mode: frozenset(vocabulary.stop_tokens(mode)) for mode in modes}
        longest = settings.max_model_len
        self._max_length = min(longest, getattr(config, "max_position_embeddings", longest))
        arguments = inspect.signature(self._model.forward).parameters
        self._takes_positions = "position_ids" in arguments
        # The logits of a whole batch of prompts would be a hundred times the model.
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in arguments else {}

    def decode(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Completion | PromptTooLong]]:
        """Write all at one time; yields the place among `samples` and the outcome of each as soon as it ends."""
        states = []
        for place, sample in enumerate(samples):
            lanes = self.tokenizer.encode_lanes(sample)
            try:
                check_length(lanes, sample.decoding, self._max_length)
                states.append(_SampleState(place, sample, lanes))
            except PromptTooLong as error:
                yield place, error
        states.sort(key=lambda state: state.draw_group)
        for state in self._ended(states) if states else ():
            yield state.place, self.tokenizer.completion(state.tokens)

    def log_likelihoods(self, continuation: Continuation) -> tuple[float, ...]:
        """As `Engine.log_likelihoods`, in one pass."""
        import torch

        prompt, text = self.tokenizer.encode_continuation(continuation, self._max_length)
        fed = torch.tensor([[*prompt, *text]], device=self._device)
        last_only = {name: len(text) + 1 for name in self._last_only}
        with torch.inference_mode():
            logits = self._model(fed, use_cache=False, **last_only).logits[0, -len(text) - 1 : -1].float()
        return tuple(logits.log_softmax(-1).gather(1, fed[0, -len(text) :, None])[:, 0].tolist())

    def _ended(self, states: list[_SampleState]) -> Iterator[_SampleState]:
        """Draw tokens for all `states` until each has ended, and yield it then."""
        import torch

        rows = [lane for state in states for lane in state.lanes]
        width = max(map(len, rows))
        pad = self.tokenizer.vocabulary.abort_token  # any token does: the mask hides it
        fed = torch.tensor([[pad] * (width - len(lane)) + [*lane] for lane in rows], device=self._device)
        mask = torch.tensor([[0] * (width - len(lane)) + [1] * len(lane) for lane in rows], device=self._device)
        cache: Any = None
        for step in itertools.count():
            with torch.inference_mode():
                logits, cache = self._forward(fed, mask, cache)
                drawn = self._draw(logits, states, step)
            for state, token in zip(states, drawn.tolist(), strict=True):
                if not state.ended:
                    state.tokens.append(token)
                    mode, most = state.sample.decoding.line_breaks, state.sample.decoding.max_tokens
                    state.ended = token in self._stop_tokens[mode] or len(state.tokens) == most
                    if state.ended:
                        yield state
            writing = [state for state in states if not state.ended]
            if not writing:
                return
            counts = torch.tensor([len(state.lanes) for state in states], device=self._device)
            fed = drawn.repeat_interleave(counts)[:, None]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if len(writing) <= SHRINK * len(states):
                is_writing = torch.tensor([not state.ended for state in states], device=self._device)
                left = is_writing.repeat_interleave(counts).nonzero().squeeze(1)
                cache.batch_select_indices(left)
                fed, mask, states = fed[left], mask[left], writing

    def _forward(self, fed: Any, mask: Any, cache: Any) -> tuple[Any, Any]:
        """Logits after the last token of each row, [rows, vocabulary], and the grown cache. fed: [rows, new tokens]."""
        more = dict(self._last_only)
        if self._takes_positions:  # lanes differ in length: each counts positions from its own first token
            more["position_ids"] = (mask.cumsum(dim=1) - 1).clamp_min(0)[:, -fed.shape[1] :]
        output = self._model(fed, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
        return output.logits[:, -1], output.past_key_values

    def _draw(self, logits: Any, states: Sequence[_SampleState], step: int) -> Any:
        """The next token of each sample: [samples] int64. logits: [rows, vocabulary], a sample's lanes together."""
        import torch

        from services.generation.decoding.debias import debias, draw, draw_keys

        tokens, first = [], 0
        for (lanes, _), group in groupby(states, key=lambda state: state.draw_group):
            alike = list(group)
            last = first + lanes * len(alike)
            own, decoding = logits[first:last].unflatten(0, (len(alike), lanes)).float(), alike[0].sample.decoding
            own[..., self._suppressed[decoding.line_breaks]] = float("-inf")  # own: [samples, lanes, vocabulary]
            all_of = partial(torch.full, (len(alike),))
            decay, floor = (all_of(value, device=self._device) for value in (decoding.decay_constant, decoding.floor))
            keys = draw_keys(torch.tensor([state.sample.seed for state in alike]), all_of(step))
            limits = all_of(decoding.temperature), all_of(decoding.top_k), all_of(decoding.top_p)
            tokens.append(draw(debias(own, decay, floor), keys, *limits))
            first = last
        return torch.cat(tokens)
