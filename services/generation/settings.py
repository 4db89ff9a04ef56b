"""The generation service's own settings."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.ports import PORTS
from shared.settings import Port

OURS = {
    "model": "PAIRWRIGHT_TEACHER names it",
    "dtype": "PAIRWRIGHT_GENERATION_DTYPE sets it",
    "logits_processors": "self-debiasing is one, and others after it would change its draws",
    "additional_config": "self-debiasing needs it",
    "worker_extension_cls": "self-debiasing needs it",
    "speculative_config": "speculative decoding gives a request several rows a step: lanes can't hold",
    "pipeline_parallel_size": "pipeline parallelism splits a step's batch: lanes can't hold",
    "long_prefill_token_threshold": "it splits prompts: lanes can't hold",
    "data_parallel_size": "run more generation services on the same Redis instead: each works on jobs of its own",
    "async_scheduling": "vLLM would schedule a step before the last one's tokens are known",
}
"""Arguments of vLLM that nobody may set, and why."""


def _leaves_lanes_whole(arguments: dict[str, Any]) -> dict[str, Any]:
    for name in arguments:
        if name in OURS:
            raise ValueError(f"{name!r} can't be set: {OURS[name]}")
    return arguments


class GenerationSettings(BaseSettings):
    """Environment variables that begin with `PAIRWRIGHT_GENERATION_`."""

    model_config = SettingsConfigDict(
        env_prefix="PAIRWRIGHT_GENERATION_", env_ignore_empty=True, extra="ignore", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    port: Port = PORTS["generation"]
    task_dir: Path | None = None
    """A folder of task specs (*.json) beside the built-in ones."""
    teacher_languages: str | None = None
    """Languages that the teacher writes, as ISO 639-1 codes (`en,de`); a job in another one carries a warning. Left
    out: what its model card says, else `en`."""

    max_pairs_per_job: Annotated[int, Field(ge=1)] = 100_000
    max_open_jobs: Annotated[int, Field(ge=1)] = 100
    """Queued and running jobs; the next one is refused with 429."""
    max_running_jobs: Annotated[int, Field(ge=1)] = 16
    """Jobs that take turns on the engine at one time; the others wait in order."""
    keep_jobs_hours: Annotated[float, Field(gt=0)] = 168.0
    """How long finished jobs and their pairs can be asked for. The pairs in the stream and the dataset stay."""
    max_backlog: Annotated[int, Field(ge=1)] = 100_000
    """Pairs that may wait for the trainer: new jobs are refused from half of it, running ones pause at it."""
    max_rerank_texts: Annotated[int, Field(ge=1)] = 1000
    """Texts of one request of `/rerank`."""
    max_queue_texts: Annotated[int, Field(ge=1)] = 10_000
    """Texts of all such requests that are not answered yet; past it, requests are refused with 429."""
    embedding_url: Annotated[str, Field(pattern=r"^(|https?://.+)$")] = ""
    """Where the embedding service answers, for what asks for the student's cosines: `http://127.0.0.1:8002`."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    drain_seconds: Annotated[float, Field(ge=0)] = 10.0
    """How long a request in flight may still take after SIGTERM. Jobs resume at the next start."""

    engine: Literal["vllm", "transformers"] = "vllm"
    """`transformers` is the slow reference, and the fallback where vLLM has no build."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """The teacher's number format. `auto`: its own on a GPU; on a CPU bfloat16 if it has instructions for that, else
    float32."""
    max_lanes: Annotated[int, Field(ge=8, le=4096)] = 128
    """Prompts decoded at one time (vLLM's max_num_seqs). A sample needs one, and one more for each counter-label."""
    max_batch_tokens: Annotated[int, Field(ge=256)] = 4096
    """Tokens of one engine step (vLLM's max_num_batched_tokens)."""
    max_model_len: Annotated[int, Field(ge=128)] = 1024
    """Longest prompt with its output, in tokens; less where the teacher's context is shorter."""
    kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    """Memory of the key-value cache without a GPU."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """GPUs that hold one teacher together. To work on more jobs, run more generation services on the same Redis."""
    quantization: str | None = None
    """vLLM's name of a quantisation, such as `awq` or `fp8`; left out, what the teacher's own files say."""
    batch_invariant: bool | None = None
    """Whether a sentence is the same to the bit whatever else is in the batch. Left out: on CPUs;
    `true` asks vLLM for it on a GPU too, `false` saves what it costs (about a fifth of the speed at 64 lanes)."""
    vllm_arguments: Annotated[dict[str, Any], AfterValidator(_leaves_lanes_whole)] = {}
    """More of vLLM's engine arguments, as a JSON object."""
