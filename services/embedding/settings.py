"""The embedding service's own settings."""

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.ports import PORTS
from shared.settings import Port

PrecisionSetting = Literal["auto", "float32", "bfloat16", "int8"]
Backend = Literal["auto", "torch"]


class EmbeddingSettings(BaseSettings):
    """Environment variables that begin with `PAIRWRIGHT_EMBEDDING_`."""

    model_config = SettingsConfigDict(
        env_prefix="PAIRWRIGHT_EMBEDDING_", env_ignore_empty=True, extra="ignore", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    port: Port = PORTS["embedding"]
    device: str = "auto"
    """Where a transformer computes: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto`; a static student does on the CPU."""
    precision: PrecisionSetting = "auto"
    """`float32`, `bfloat16`, `int8`, or `auto`: bfloat16 on a GPU; without one int8 where a version has it and its
    record says that it is true to the exact model, and float32 otherwise."""
    backend: Backend = "auto"
    """`torch`, or `auto`: without a GPU, ONNX Runtime where a version has an export whose record says that it is exact
    and no slower. It concerns float32 alone."""
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Batches computed at one time; 0 takes one for each core, up to 4."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of one batch; 0 shares the cores out between the workers."""

    poll_seconds: Annotated[float, Field(gt=0, le=3600)] = 1.0
    """How often the pointer to the current version is read."""
    max_versions: Annotated[int, Field(ge=1)] = 3
    """Versions loaded at one time: the current, the one before, and pinned ones; fewer when memory is short."""
    admin_keys: SecretStr = SecretStr("")
    """Bearer keys that may activate versions, separated by commas; without, every API key or this machine's callers."""

    max_batch_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens of a batch, with padding, unless a single input is longer; 0 takes what suits version and device."""
    max_client_inputs: Annotated[int, Field(ge=1)] = 2048
    """Inputs of one request."""
    max_queue_inputs: Annotated[int, Field(ge=1)] = 32_768
    """Inputs of all requests that are not answered yet; past it, requests are refused with 429."""
    max_queue_chars: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Characters of all requests that are not answered yet."""
    max_queue_tokens: Annotated[int, Field(ge=1)] = 1024 * 1024
    """Tokens that wait to be computed."""
    max_wait_seconds: Annotated[float, Field(ge=0)] = 0.5
    """Short inputs go first; one that has waited longer than this goes before all."""
    request_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A request that isn't answered by then gets 504; one that would wait longer is refused with 429 at once."""
    cache_mib: Annotated[int, Field(ge=0)] = 64
    """Memory for vectors of texts that were asked for before; 0 keeps none."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    max_batch_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024 * 1024
    """One file of texts for `/batches`, as decompressed."""
    batches_mib: Annotated[int, Field(ge=1)] = 8192
    """Disk for the texts and vectors of all batches together."""
    keep_batches_hours: Annotated[float, Field(gt=0)] = 168.0
    """A batch is deleted so long after it is done."""
    cors_origins: str = ""
    """Web pages that may call this service, separated by commas, as `https://a.example.com`, or `*`; default none."""
    drain_seconds: Annotated[float, Field(ge=0)] = 10.0
    """How long a request in flight may still take after SIGTERM."""

    @model_validator(mode="after")
    def _one_request_fits_the_queue(self) -> Self:
        # Otherwise a request of that size would be told to try again for ever.
        self.max_queue_inputs = max(self.max_queue_inputs, self.max_client_inputs)
        self.max_queue_chars = max(self.max_queue_chars, self.max_body_bytes)
        return self

    @property
    def admins(self) -> tuple[str, ...]:
        return _split(self.admin_keys.get_secret_value())

    @property
    def origins(self) -> tuple[str, ...]:
        return _split(self.cors_origins)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
