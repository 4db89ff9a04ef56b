"""What students in torch share beside their tokenizer: one computation a thread."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from services.embedding.models.base import Vectors
from services.embedding.models.tokenizing import TokenizingEncoder
from shared.manifest import Manifest


class Student(NamedTuple):
    """What a version's folder holds, in memory."""

    tokenizer: Any
    prompts: Mapping[str, str | None]
    default_prompt_name: str | None
    forward: Callable[[dict[str, Any]], Any]
    """Takes and gives the features of sentence-transformers' modules."""
    device: Any


class TorchEncoder(TokenizingEncoder):
    """A student whose vectors torch computes, all of them or the last part."""

    def __init__(self, manifest: Manifest, student: Student, threads: int) -> None:
        tokenizer, prompts, default_prompt_name, self._forward, self._device = student
        super().__init__(manifest, tokenizer, prompts, default_prompt_name)
        self._threads = threads
        self._thread = threading.local()

    def _run(self, features: dict[str, Any]) -> Vectors:
        return self._to_array(self._compute(features)["sentence_embedding"])

    def _to_array(self, vectors: Any) -> Vectors:
        array: Vectors = vectors.float().cpu().numpy()
        return array

    def _compute(self, features: dict[str, Any]) -> Any:
        if self._threads and not hasattr(self._thread, "ready"):
            torch.set_num_threads(self._threads)  # OpenMP counts for each thread by itself
            self._thread.ready = True
        for name, value in features.items():
            if isinstance(value, torch.Tensor):
                features[name] = value.to(self._device)
        with torch.inference_mode():
            return self._forward(features)
