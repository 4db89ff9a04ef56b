"""The generation service's own settings."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import Port


class GenerationSettings(BaseSettings):
    """Environment variables that begin with `PAIRWRIGHT_GENERATION_`."""

    model_config = SettingsConfigDict(env_prefix="PAIRWRIGHT_GENERATION_", env_ignore_empty=True, extra="ignore")

    host: str = "127.0.0.1"
    port: Port = 8001
    task_dir: Path | None = None
    """A folder of task specs (*.json) beside the built-in ones."""

    max_pairs_per_job: Annotated[int, Field(ge=1)] = 100_000
    max_open_jobs: Annotated[int, Field(ge=1)] = 100
    """Queued and running jobs; the next one is refused with 429."""
    max_running_jobs: Annotated[int, Field(ge=1)] = 4
    """Jobs that share the engine at one time; the others wait in order."""
    max_backlog: Annotated[int, Field(ge=1)] = 100_000
    """Pairs that may wait for the trainer: new jobs are refused from half of it, running ones pause at it."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    drain_seconds: Annotated[float, Field(ge=0)] = 10.0
    """How long a request in flight may still take after SIGTERM. Jobs resume at the next start."""

    engine: Literal["vllm", "transformers"] = "vllm"
    """`transformers` is the slow reference, and the fallback where vLLM has no build."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    max_lanes: Annotated[int, Field(ge=8, le=4096)] = 64
    """Prompts decoded at one time (vLLM's max_num_seqs). A sample needs one, and one more for each counter-label."""
    max_batch_tokens: Annotated[int, Field(ge=256)] = 4096
    """Tokens of one engine step (vLLM's max_num_batched_tokens)."""
    max_model_len: Annotated[int, Field(ge=128)] = 1024
    """Longest prompt with its output, in tokens; less where the teacher's context is shorter."""
    kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    """Memory of the key-value cache without a GPU."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
