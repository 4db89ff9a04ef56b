"""The embedding service's own settings."""

from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import Port


class EmbeddingSettings(BaseSettings):
    """Environment variables that begin with `PAIRWRIGHT_EMBEDDING_`."""

    model_config = SettingsConfigDict(env_prefix="PAIRWRIGHT_EMBEDDING_", env_ignore_empty=True, extra="ignore")

    host: str = "127.0.0.1"
    port: Port = 8002
    device: str = "auto"
    """Where torch computes: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto`."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of one torch operation; 0 leaves the choice to torch, which takes every core."""

    poll_seconds: Annotated[float, Field(gt=0, le=3600)] = 1.0
    """How often the pointer to the current version is read."""
    keep_previous: bool = True
    """Keep the version before loaded too, so that a caller may pin it and a rollback takes no loading."""

    max_batch_tokens: Annotated[int, Field(ge=1)] = 8192
    """Tokens of one batch, with its padding. A longer single input is a batch of its own."""
    max_client_inputs: Annotated[int, Field(ge=1)] = 2048
    """Inputs of one request."""
    max_queue_inputs: Annotated[int, Field(ge=1)] = 32_768
    """Inputs of all requests that are not answered yet; past it, requests are refused with 429."""
    max_queue_chars: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Characters of all requests that are not answered yet."""
    max_wait_seconds: Annotated[float, Field(ge=0)] = 0.5
    """Short inputs go first; one that has waited longer than this goes before all."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    drain_seconds: Annotated[float, Field(ge=0)] = 10.0
    """How long a request in flight may still take after SIGTERM."""

    @model_validator(mode="after")
    def _one_request_fits_the_queue(self) -> Self:
        # Otherwise a request of that size would be told to try again for ever.
        self.max_queue_inputs = max(self.max_queue_inputs, self.max_client_inputs)
        self.max_queue_chars = max(self.max_queue_chars, self.max_body_bytes)
        return self
