"""The vLLM engine: in our own process, in one thread that alone touches it.

In process because vLLM's server processes cost half the speed on two cores, and because whole samples must enter
between two steps. One thread because vLLM's worker threads belong to the thread that started them.
"""

import asyncio
import contextlib
import logging
import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

from services.generation.decoding.base import Completion, EngineDead, PromptTooLong, Sample, Turn
from services.generation.decoding.chat import render_chat
from services.generation.decoding.precision import dtype_for
from services.generation.decoding.vocabulary import Vocabulary, cut, read_vocabulary
from services.generation.settings import GenerationSettings
from shared.process import disable_openmp_spinning

log = logging.getLogger(__name__)

PROCESSOR = "services.generation.decoding.vllm.processor:SelfDebias"
WORKER = "services.generation.decoding.vllm.worker.LaneWorker"
CPU_BLOCK_TOKENS = 32
"""vLLM's default on CPU is 128, longer than most of our prompts: no prefix would ever be shared."""


class VllmEngine:
    """Completes samples on vLLM. `start` loads the model; `complete` may be called from any event loop."""

    def __init__(self, model: str, settings: GenerationSettings, **engine_arguments: Any) -> None:
        """`engine_arguments` override vLLM's EngineArgs; `admit_whole=False` (for tests) ends admission control."""
        self._model, self._settings = model, settings
        self._admit_whole = engine_arguments.pop("admit_whole", True)
        self._overrides = engine_arguments
        self._inbox: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._started: Future[None] = Future()
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)
        self.lockstep: Any = None
        """The admission control; None until started."""
        self._tokenizer: Any = None

    @property
    def state(self) -> str:
        """`ok`, `starting`, or what killed the engine."""
        if self._fault is not None:
            return self._fault
        return "ok" if self._started.done() else "starting"

    @property
    def capacity(self) -> int:
        """Lanes that decode at one time."""
        return self._settings.max_lanes

    @property
    def lanes_running(self) -> int:
        """Prompts that decode now."""
        return self.lockstep.lanes_running if self.lockstep is not None else 0

    @property
    def replays(self) -> int:
        """Samples that fell out of lockstep and were made again."""
        return self.lockstep.replays if self.lockstep is not None else 0

    @property
    def tokens_drawn(self) -> int:
        """Tokens of finished sentences."""
        return self.lockstep.tokens_drawn if self.lockstep is not None else 0

    async def start(self) -> None:
        """Load the model. Raises whatever vLLM raises."""
        self._thread.start()
        await asyncio.wrap_future(self._started)

    def stop(self) -> None:
        """End the thread; calls that still wait raise `EngineDead`."""
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join(timeout=30)

    def render_chat(self, turns: Sequence[Turn]) -> str:
        """A prompt in the teacher's chat template. Raises `NoChatTemplate`."""
        return render_chat(self._tokenizer, turns)

    async def complete(self, sample: Sample) -> Completion:
        """Write one sentence. Raises `PromptTooLong` or `EngineDead`."""
        call = _Call(sample)
        self._inbox.put(call)
        if self._fault is not None:  # the thread may have ended before it saw this call
            raise EngineDead(self._fault)
        return await asyncio.wrap_future(call.future)

    # ---- the engine's thread

    def _run(self) -> None:
        calls: set[_Call] = set()
        try:
            desk = self._load()
            self._started.set_result(None)
            while self._take_calls(desk, calls):
                for group in desk.lockstep.step():
                    call = desk.calls.pop(group)
                    calls.discard(call)
                    call.resolve(desk.completion(group))
            self._fault = "stopped"
        except Exception as error:
            self._fault = f"{type(error).__name__}: {error}"
            if not self._started.done():
                self._started.set_exception(error)
            else:
                log.exception("the engine died")
        for call in calls | self._left_over():
            call.fail(EngineDead(self._fault))

    def _load(self) -> "_Desk":
        engine, tokenizer, vocabulary = build_llm_engine(self._model, self._settings, self._overrides)
        config = engine.vllm_config
        # Imported here: it imports vllm, whose environment build_llm_engine has just set.
        from services.generation.decoding.vllm.lockstep import Limits, Lockstep

        limits = Limits(
            lanes=config.scheduler_config.max_num_seqs,
            step_tokens=config.scheduler_config.max_num_batched_tokens,
            sequence_tokens=config.model_config.max_model_len,
            block_tokens=config.cache_config.block_size,
            blocks=config.cache_config.num_gpu_blocks - 1,  # vLLM keeps one for itself
        )
        log.info("engine ready: %s, %s", self._model, limits)
        self._tokenizer, self.lockstep = tokenizer, Lockstep(engine, limits, self._admit_whole)
        return _Desk(self.lockstep, tokenizer, vocabulary)

    def _take_calls(self, desk: "_Desk", calls: "set[_Call]") -> bool:
        """Bring new calls in and cancelled ones out; wait while there is nothing to do. False: stop."""
        while True:
            try:
                call = self._inbox.get(block=desk.lockstep.idle)
            except queue.Empty:
                break
            if call is None:
                return False
            if desk.accept(call):
                calls.add(call)
        for call in [call for call in calls if call.future.cancelled()]:
            calls.discard(call)
            desk.cancel(call)
        return True

    def _left_over(self) -> "set[_Call]":
        left = set()
        with contextlib.suppress(queue.Empty):
            while True:
                call = self._inbox.get_nowait()
                if call is not None:
                    left.add(call)
        return left


class _Call:
    """A sample that somebody waits for."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.future: Future[Completion] = Future()

    def resolve(self, completion: Completion) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(completion)

    def fail(self, error: Exception) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class _Desk:
    """Between calls (texts) and lockstep (token ids)."""

    def __init__(self, lockstep: Any, tokenizer: Any, vocabulary: Vocabulary) -> None:
        self.lockstep, self._tokenizer, self._vocabulary = lockstep, tokenizer, vocabulary
        self.calls: dict[Any, _Call] = {}
        # A counter-label's prompt is another label's own prompt: each is tokenised once.
        self._tokens = lru_cache(maxsize=4096)(
            lambda prompt, templated: tuple(tokenizer(prompt, add_special_tokens=not templated).input_ids)
        )

    def accept(self, call: _Call) -> bool:
        """Hand a call's sample to lockstep; False if it could not be taken (the call has its answer then)."""
        from services.generation.decoding.vllm.lockstep import LaneGroup

        sample = call.sample
        # Without suppression the counter prompts change nothing: don't pay for their lanes.
        prompts = sample.prompts if sample.decoding.decay_constant > 0 else sample.prompts[:1]
        group = LaneGroup(
            prompts=[self._tokens(prompt, sample.templated) for prompt in prompts],
            seed=sample.seed,
            decoding=sample.decoding,
            stop=self._vocabulary.ends(sample.decoding.line_breaks == "reject"),
            poison=self._vocabulary.poison,
            client=sample.client,
        )
        try:
            self.lockstep.add(group)
        except PromptTooLong as error:
            call.fail(error)
            return False
        self.calls[group] = call
        return True

    def cancel(self, call: _Call) -> None:
        for group in [group for group, waiting in self.calls.items() if waiting is call]:
            self.lockstep.cancel(group)
            del self.calls[group]

    def completion(self, group: Any) -> Completion:
        text, end = cut(self._tokenizer.decode(group.tokens, clean_up_tokenization_spaces=False))
        return Completion(text, end, tokens=len(group.tokens))


def build_llm_engine(
    model: str, settings: GenerationSettings, overrides: dict[str, Any]
) -> tuple[Any, Any, Vocabulary]:
    """vLLM's engine with our processor in this process, the model's tokenizer, and its tokens' roles."""
    _set_environment(settings)
    from transformers import AutoConfig, AutoTokenizer
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    tokenizer = AutoTokenizer.from_pretrained(model)
    config = AutoConfig.from_pretrained(model).get_text_config()
    vocabulary = read_vocabulary(tokenizer, config.vocab_size)
    context = getattr(config, "max_position_embeddings", None) or settings.max_model_len
    on_cpu = current_platform.is_cpu()
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": dtype_for(settings.dtype, on_gpu=not on_cpu),
        "max_num_seqs": settings.max_lanes,
        "max_num_batched_tokens": settings.max_batch_tokens,
        "max_model_len": min(settings.max_model_len, context),
        "tensor_parallel_size": settings.tensor_parallel_size,
        "quantization": settings.quantization,
        "enable_prefix_caching": True,
        # vLLM would schedule a step before the last one's tokens are known; not tried with lanes.
        "async_scheduling": False,
        "disable_log_stats": True,
        "logits_processors": [PROCESSOR],
        "worker_extension_cls": WORKER,
        "additional_config": {"pairwright": {"banned": vocabulary.banned, "line_breaks": vocabulary.line_breaks}},
    }
    if on_cpu:
        # Compilation takes minutes on few cores and gains a tenth.
        arguments |= {"enforce_eager": True, "block_size": CPU_BLOCK_TOKENS}
    else:
        arguments |= {"gpu_memory_utilization": settings.gpu_memory_utilization}
    engine_arguments = EngineArgs(**(arguments | settings.vllm_arguments | overrides))
    config = engine_arguments.create_engine_config()
    _refuse_what_breaks_lanes(config)  # before minutes are spent on loading
    engine = LLMEngine.from_engine_args(engine_arguments)
    if on_cpu and settings.batch_invariant is not False:
        engine.collective_rpc("pairwright_make_batch_invariant")
    return engine, tokenizer, vocabulary


def _set_environment(settings: GenerationSettings) -> None:
    """vLLM and torch read these when they are imported. What the user has set stays."""
    disable_openmp_spinning()
    import torch

    if settings.batch_invariant and torch.cuda.is_available():
        os.environ["VLLM_BATCH_INVARIANT"] = "1"  # on a CPU it fails; there batch_invariance.py sees to it
    for name, value in {
        # Keys split between threads are added up in an order that depends on the rest of the batch.
        "VLLM_CPU_ATTN_SPLIT_KV": "0" if settings.batch_invariant is not False else "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


def _refuse_what_breaks_lanes(config: Any) -> None:
    if config.speculative_config is not None:
        raise ValueError("speculative decoding gives a request several rows a step: lanes can't be kept in lockstep")
    if config.parallel_config.pipeline_parallel_size != 1:
        raise ValueError("pipeline parallelism splits a step's batch: lanes can't be kept in lockstep")
    if config.scheduler_config.long_prefill_token_threshold:
        raise ValueError("long_prefill_token_threshold splits prompts: lanes can't be kept in lockstep")
