"""The vLLM engine: in our own process, in one thread that alone touches it.

In process because vLLM's server processes cost half the speed on two cores, and because whole samples must enter
between two steps. One thread because vLLM's worker threads belong to the thread that started them.
"""

import asyncio
import logging
import os
import queue
import sys
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from services.generation.decoding.base import Completion, Continuation, EngineDead, Sample, Turn
from services.generation.decoding.tokenizer import TeacherTokenizer
from services.generation.decoding.vllm.admission import Limits, SampleState
from services.generation.settings import GenerationSettings
from shared.precision import dtype_for
from shared.process import disable_openmp_spinning

if TYPE_CHECKING:
    from services.generation.decoding.vllm.lockstep import Lockstep

log = logging.getLogger(__name__)


class VllmEngine:
    """Completes samples on vLLM. Its methods: see `Engine`; `complete` may be called from any event loop."""

    lockstep: "Lockstep"  # since `start`
    _tokenizer: TeacherTokenizer

    def __init__(self, model: str, settings: GenerationSettings) -> None:
        self._model, self._settings = model, settings
        self._inbox: queue.SimpleQueue[tuple[Sample | Continuation, Future[Any]] | None] = queue.SimpleQueue()
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)
        self.capacity = settings.max_lanes
        self.state = "starting"
        self.lanes_running = self.replays = self.tokens_drawn = 0

    async def start(self) -> None:
        self._thread.start()
        await asyncio.wrap_future(self._started)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join(timeout=30)

    def render_chat(self, turns: Sequence[Turn]) -> str:
        return self._tokenizer.render_chat(turns)

    async def complete(self, sample: Sample) -> Completion:
        completion: Completion = await self._call(sample)
        return completion

    async def log_likelihoods(self, continuation: Continuation) -> tuple[float, ...]:
        log_likelihoods: tuple[float, ...] = await self._call(continuation)
        return log_likelihoods

    async def _call(self, call: Sample | Continuation) -> Any:
        future: Future[Any] = Future()
        self._inbox.put((call, future))
        if self.state not in ("ok", "starting"):  # the thread may have ended before it read this call
            raise EngineDead(self.state)
        return await asyncio.wrap_future(future)

    # ---- the engine's thread

    def _run(self) -> None:
        states: set[SampleState] = set()
        try:
            self._load()
            self.state = "ok"
            self._started.set_result(None)
            while self._take_calls(states):
                ended = self.lockstep.step()
                self.lanes_running, self.replays = self.lockstep.lanes_running, self.lockstep.replays
                self.tokens_drawn = self.lockstep.tokens_drawn
                for state in ended:
                    if state.future.set_running_or_notify_cancel():
                        done = state.log_likelihoods if state.text else self._tokenizer.completion(state.tokens)
                        state.future.set_result(done)
                    states.discard(state)
            self.state = "stopped"
        except Exception as error:
            self.state = f"{type(error).__name__}: {error}"
            if not self._started.done():
                self._started.set_exception(error)
            else:
                log.exception("the engine died")
        calls = [self._inbox.get() for _ in range(self._inbox.qsize())]
        for future in [state.future for state in states] + [call[1] for call in calls if call is not None]:
            _fail(future, EngineDead(self.state))

    def _load(self) -> None:
        engine, self._tokenizer = build_llm_engine(self._model, self._settings)
        # Imported here: it imports vllm, whose environment build_llm_engine has just set.
        from services.generation.decoding.vllm.lockstep import Lockstep

        config = engine.vllm_config
        limits = Limits(
            lanes=config.scheduler_config.max_num_seqs,
            step_tokens=config.scheduler_config.max_num_batched_tokens,
            sequence_tokens=config.model_config.max_model_len,
            block_tokens=config.cache_config.block_size,
            blocks=config.cache_config.num_gpu_blocks - 1,  # vLLM keeps one for itself
        )
        log.info("engine ready: %s, %s", self._model, limits)
        self.lockstep = Lockstep(engine, limits, self._tokenizer.vocabulary)

    def _take_calls(self, states: set[SampleState]) -> bool:
        """Bring new calls in and cancelled ones out; wait while there is nothing to do. False: stop."""
        while self.lockstep.idle or not self._inbox.empty():
            if (call := self._inbox.get()) is None:
                return False
            try:
                state = self._state_of(*call)
                self.lockstep.add(state)
                states.add(state)
            except Exception as error:  # whatever a tokenizer says of a text: it is that call's, not the engine's
                _fail(call[1], error)
        for state in [state for state in states if state.future.cancelled()]:
            states.discard(state)
            self.lockstep.cancel(state)
        return True

    def _state_of(self, call: Sample | Continuation, future: Future[Any]) -> SampleState:
        if isinstance(call, Sample):
            return SampleState(call, self._tokenizer.encode_lanes(call), future)
        prompt, text = self._tokenizer.encode_continuation(call, self.lockstep.limits.sequence_tokens)
        return SampleState.of_text(prompt, text, call.client, future)


def _fail(future: Future[Any], error: Exception) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def build_llm_engine(model: str, settings: GenerationSettings) -> tuple[Any, TeacherTokenizer]:
    """vLLM's engine with our processor in this process, and the model's tokenizer."""
    _set_environment(settings)
    from transformers import AutoConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    config = AutoConfig.from_pretrained(model).get_text_config()
    tokenizer = TeacherTokenizer(model, config.vocab_size)
    roles = tokenizer.vocabulary
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
        "use_tqdm_on_load": sys.stderr.isatty(),
        "logits_processors": ["services.generation.decoding.vllm.processor:SelfDebias"],
        "worker_extension_cls": "services.generation.decoding.vllm.processor.LaneWorker",
        "additional_config": {"pairwright": {"banned": roles.banned, "line_breaks": roles.line_breaks}},
    }
    if on_cpu:
        # Compilation takes minutes on few cores and gains a tenth. vLLM's default blocks of 128 tokens are longer than
        # most of our prompts: no prefix would ever be shared.
        arguments |= {"enforce_eager": True, "block_size": 32}
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    engine_arguments = EngineArgs(**(arguments | settings.vllm_arguments))
    _refuse_what_breaks_lanes(engine_arguments.create_engine_config())  # before minutes are spent on loading
    engine = LLMEngine.from_engine_args(engine_arguments)
    if on_cpu and settings.batch_invariant is not False:
        engine.collective_rpc("pairwright_make_batch_invariant")
    return engine, tokenizer


def _set_environment(settings: GenerationSettings) -> None:
    """vLLM and torch read these when they are imported. What the user has set stays."""
    disable_openmp_spinning()
    # A dozen warnings at each start are about vLLM's own choices, and nobody can act on them. Errors are shown.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    import torch

    if settings.batch_invariant and torch.cuda.is_available():
        os.environ["VLLM_BATCH_INVARIANT"] = "1"  # on a CPU it fails; there batch_invariance.py sees to it
    for name, value in {
        # Keys split between threads are added up in an order that depends on the rest of the batch.
        "VLLM_CPU_ATTN_SPLIT_KV": "0" if settings.batch_invariant is not False else "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])  # what it logs before it reads that itself


def _refuse_what_breaks_lanes(config: Any) -> None:
    if config.speculative_config is not None:
        raise ValueError("speculative decoding gives a request several rows a step: lanes can't be kept in lockstep")
    if config.parallel_config.pipeline_parallel_size != 1:
        raise ValueError("pipeline parallelism splits a step's batch: lanes can't be kept in lockstep")
    if config.scheduler_config.long_prefill_token_threshold:
        raise ValueError("long_prefill_token_threshold splits prompts: lanes can't be kept in lockstep")
