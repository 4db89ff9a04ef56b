"""The plain engine: DINO's decoding on transformers, the lanes of a sample as rows of one batch.

It is the reference that the vLLM engine is tested against, and the fallback where vLLM has no build. On a CPU it writes
one sample at a time. On a GPU it writes those that wait together, up to `max_lanes` prompts; the next ones wait until
the last of them is done, and prompts share nothing, so vLLM is still the engine to serve with.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

from services.generation.decoding.base import Completion, EngineDead, NoChatTemplate, PromptTooLong, Sample, Turn
from services.generation.decoding.chat import render_chat
from services.generation.decoding.precision import dtype_for
from services.generation.decoding.vocabulary import Vocabulary, cut, read_vocabulary
from services.generation.settings import GenerationSettings

SHRINK = 0.75
"""Rows of ended sentences are taken out of a batch when no more than this share of it still writes."""

Tell = Callable[[int, Completion | PromptTooLong], None]
"""Hears what became of a sample, by its place among those that are written together."""


class TransformersEngine:
    """Completes samples with transformers, in a thread of its own."""

    replays = 0
    """Rows of one batch can't fall out of lockstep."""

    def __init__(self, model: str, settings: GenerationSettings, together: bool | None = None) -> None:
        """`together`: whether samples that wait are written as one batch; left out, on a GPU they are."""
        self._name, self._settings, self._together = model, settings, together
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers-engine")
        self._waiting: deque[tuple[Sample, Future[Completion]]] = deque()
        self._state = "starting"
        self._writer: _Writer | None = None
        self.capacity = 8
        """On a CPU samples that wait are cheap; more of them make nothing faster."""
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
        if self._together is None:
            self._together = self._writer.on_gpu
        if self._together:
            self.capacity = self._settings.max_lanes
        self._state = "ok"

    def stop(self) -> None:
        """End after the samples under way; calls that still wait are cancelled."""
        self._state = "stopped"
        self._thread.shutdown(wait=True, cancel_futures=True)
        for _, future in self._waiting:
            future.cancel()

    def render_chat(self, turns: Sequence[Turn]) -> str:
        """A prompt in the teacher's chat template. Raises `NoChatTemplate`."""
        if self._writer is None:
            raise NoChatTemplate("the model was never loaded")
        return render_chat(self._writer.tokenizer, turns)

    async def complete(self, sample: Sample) -> Completion:
        """Write one sentence. Raises `PromptTooLong` or `EngineDead`."""
        if self._state not in ("ok", "starting"):
            raise EngineDead(self._state)
        future: Future[Completion] = Future()
        self._waiting.append((sample, future))
        self._thread.submit(self._write_some)
        return await asyncio.wrap_future(future)

    def _write_some(self) -> None:
        """Write the samples that have waited longest. Each call of `complete` brings one here: the last find none."""
        samples, futures = self._next()
        if not samples:
            return
        lanes = [len(sample.prompts) for sample in samples]

        def tell(place: int, outcome: Completion | PromptTooLong) -> None:
            self.lanes_running -= lanes[place]
            if isinstance(outcome, PromptTooLong):
                futures[place].set_exception(outcome)
            else:
                self.tokens_drawn += outcome.tokens
                futures[place].set_result(outcome)

        self.lanes_running = sum(lanes)
        try:
            if self._writer is None:
                raise EngineDead("the model was never loaded")
            self._writer.write(samples, tell)
        except Exception as error:  # whatever it is, those who wait must hear of it
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        finally:
            self.lanes_running = 0

    def _next(self) -> tuple[list[Sample], list[Future[Completion]]]:
        """One sample, or as many as fit together; cancelled ones are left out."""
        samples: list[Sample] = []
        futures: list[Future[Completion]] = []
        room = self.capacity if self._together else 0
        while self._waiting and (not samples or len(self._waiting[0][0].prompts) <= room):
            sample, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                room -= len(sample.prompts)
                samples.append(sample)
                futures.append(future)
        return samples, futures


@dataclass
class _Group:
    """A sample under way, and the tokens of its prompts."""

    place: int
    sample: Sample
    lanes: list[list[int]]
    tokens: list[int] = field(default_factory=list)
    """Drawn ones, the one that stopped it included."""
    ended: bool = False

    @property
    def alike(self) -> tuple[int, str]:
        """Groups that agree in this are drawn together."""
        return len(self.lanes), self.sample.decoding.model_dump_json()


class _Writer:
    """The model and what it needs to write sentences."""

    def __init__(self, name: str, settings: GenerationSettings) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.on_gpu = torch.cuda.is_available()
        self._device, dtype = "cuda" if self.on_gpu else "cpu", dtype_for(settings.dtype, self.on_gpu)
        self._model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(self._device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        config = self._model.config.get_text_config()
        self._vocabulary: Vocabulary = read_vocabulary(self.tokenizer, config.vocab_size)
        self._never = {
            line_breaks: torch.tensor(self._vocabulary.never(line_breaks), device=self._device)
            for line_breaks in (False, True)
        }
        self._ends = {reject: set(self._vocabulary.ends(reject)) for reject in (False, True)}
        self._longest = min(settings.max_model_len, getattr(config, "max_position_embeddings", settings.max_model_len))
        takes = inspect.signature(self._model.forward).parameters
        self._takes_positions = "position_ids" in takes
        # The logits of a whole batch of prompts would be a hundred times the model.
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def write(self, samples: Sequence[Sample], tell: Tell) -> None:
        """Write them all at one time; `tell` hears of each as soon as it ends."""
        groups = []
        for place, (sample, lanes) in enumerate(zip(samples, self._tokenized(samples), strict=True)):
            longest, more = max(map(len, lanes)), sample.decoding.max_tokens
            if longest + more > self._longest:
                message = f"a prompt of {longest} tokens with {more} to write exceeds the engine's {self._longest}"
                tell(place, PromptTooLong(message))
            else:
                groups.append(_Group(place, sample, lanes))
        self._decode(sorted(groups, key=lambda group: group.alike), tell)

    def _tokenized(self, samples: Sequence[Sample]) -> list[list[list[int]]]:
        """The prompts of each sample, its lanes."""
        lanes: list[list[list[int]]] = []
        for templated, some in groupby(samples, key=lambda sample: sample.templated):
            prompts = [_prompts(sample) for sample in some]
            texts = [text for texts in prompts for text in texts]
            ids = iter(self.tokenizer(texts, add_special_tokens=not templated).input_ids)
            lanes += [[next(ids) for _ in texts] for texts in prompts]
        return lanes

    def _decode(self, groups: list[_Group], tell: Tell) -> None:
        """Draw tokens for all groups until each has ended."""
        import torch

        rows = [lane for group in groups for lane in group.lanes]
        width = max(map(len, rows), default=0)
        pad = self._vocabulary.poison  # any token does: the mask hides it
        fed = torch.tensor([[pad] * (width - len(lane)) + lane for lane in rows], device=self._device)
        mask = torch.tensor([[0] * (width - len(lane)) + [1] * len(lane) for lane in rows], device=self._device)
        cache: Any = None
        with torch.inference_mode():
            for step in range(max((group.sample.decoding.max_tokens for group in groups), default=0)):
                # Lanes differ in length: each counts positions from its own first token.
                positions = (mask.cumsum(dim=1) - 1).clamp_min(0)[:, -fed.shape[1] :]
                more: dict[str, Any] = {"position_ids": positions} if self._takes_positions else {}
                output = self._model(
                    fed, attention_mask=mask, past_key_values=cache, use_cache=True, **more, **self._last_only
                )
                cache = output.past_key_values
                drawn = self._draw(output.logits[:, -1], groups, step)
                for group, token in zip(groups, drawn.tolist(), strict=True):
                    self._enter(group, token, tell)
                counts = torch.tensor([len(group.lanes) for group in groups], device=self._device)
                fed = drawn.repeat_interleave(counts)[:, None]
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                writing = sum(not group.ended for group in groups)
                if not writing:
                    break
                if writing <= SHRINK * len(groups):
                    kept = torch.tensor([not group.ended for group in groups], device=self._device)
                    left = kept.repeat_interleave(counts).nonzero().squeeze(1)
                    cache.batch_select_indices(left)
                    fed, mask = fed[left], mask[left]
                    groups = [group for group in groups if not group.ended]

    def _enter(self, group: _Group, token: int, tell: Tell) -> None:
        """Add a token to a sentence that is being written, and end it where it ends."""
        if group.ended:
            return
        decoding = group.sample.decoding
        group.tokens.append(token)
        group.ended = token in self._ends[decoding.line_breaks == "reject"] or len(group.tokens) == decoding.max_tokens
        if group.ended:
            text, end = cut(self.tokenizer.decode(group.tokens, clean_up_tokenization_spaces=False))
            tell(group.place, Completion(text, end, len(group.tokens)))

    def _draw(self, logits: Any, groups: Sequence[_Group], step: int) -> Any:
        """The next token of each group: [groups] int64. logits: [rows, vocabulary], a group's lanes together."""
        import torch

        drawn, first = [], 0
        for (lanes, _), some in groupby(groups, key=lambda group: group.alike):
            alike = list(some)
            last = first + lanes * len(alike)
            drawn.append(self._draw_alike(logits[first:last].unflatten(0, (len(alike), lanes)), alike, step))
            first = last
        return torch.cat(drawn)

    def _draw_alike(self, logits: Any, groups: Sequence[_Group], step: int) -> Any:
        """The same for groups of one decoding. logits: [groups, lanes, vocabulary]."""
        import torch

        from services.generation.decoding.debias import debias, draw, draw_keys

        decoding = groups[0].sample.decoding
        logits = logits.float()
        logits[..., self._never[decoding.line_breaks == "reject"]] = float("-inf")
        all_of = partial(torch.full, (len(groups),))
        probabilities = debias(
            logits,
            all_of(decoding.decay_constant, device=self._device),
            all_of(decoding.floor, device=self._device),
        )
        keys = draw_keys(torch.tensor([group.sample.seed for group in groups]), all_of(step))
        return draw(probabilities, keys, all_of(decoding.temperature), all_of(decoding.top_k), all_of(decoding.top_p))


def _prompts(sample: Sample) -> Sequence[str]:
    """What is read of a sample: without decay its counter-labels have no say."""
    return sample.prompts if sample.decoding.decay_constant > 0 else sample.prompts[:1]
