"""A transformer in memory: sentence-transformers' modules, in torch or with ONNX Runtime in the transformer's place.

The only module that imports sentence-transformers, which takes seconds.
"""

import copy
import threading
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from transformers.utils import logging as transformers_logging

from services.embedding.models.base import LONG_CHARS, EncodeOptions, Encoder, Precision, Tokens, Vectors
from services.embedding.models.exported import CPU_BATCH_TOKENS, choose, cut, onnx_session, pad
from services.embedding.models.static import StaticEncoder
from services.embedding.models.tokenizing import TokenizingEncoder, truncated
from services.embedding.settings import Backend, PrecisionSetting
from shared.manifest import PROBE_SENTENCES, Manifest
from shared.model_store import BrokenVersion

NO_LIMIT = 1_000_000
"""transformers writes "no limit" as a huge number."""
GPU_BATCH_TOKENS = 16_384


def load(
    folder: Path, manifest: Manifest, device: str, threads: int, precision: PrecisionSetting, backend: Backend
) -> Encoder:
    """The version in `folder`. Raises `BrokenVersion` for a kind of model that isn't served."""
    transformers_logging.disable_progress_bar()
    # A version holds safetensors only (`ModelStore.verify`), and code is never taken from a model's folder.
    model = SentenceTransformer(
        str(folder), device=None if device == "auto" else device, local_files_only=True, trust_remote_code=False
    )
    model.eval()
    first, kind = model[0], type(model[0])
    if kind is StaticEmbedding:  # with other modules behind it, or in bfloat16
        table = first.embedding.weight.detach().float().cpu().numpy()
        behind = partial(_run_modules, list(model)[1:], model.device)
        return StaticEncoder(manifest, first.tokenizer, model.prompts, model.default_prompt_name, table, behind)
    if kind is Transformer:
        chosen, file = choose(manifest, model.device.type == "cpu", precision, backend)
        return TransformerEncoder(manifest, model, threads, chosen, folder / file if file else None)
    raise BrokenVersion(f"{manifest.id}: begins with {kind.__name__}; StaticEmbedding and Transformer are served")


def _run_modules(modules: list[Any], device: Any, means: Vectors) -> Vectors:
    features = {"sentence_embedding": torch.from_numpy(means).to(device)}
    with torch.inference_mode():
        for module in modules:
            features = module(features)
    return _to_array(features["sentence_embedding"])


def _to_array(vectors: torch.Tensor) -> Vectors:
    array: Vectors = vectors.float().cpu().numpy()
    return array


class TransformerEncoder(TokenizingEncoder):
    """A transformer with pooling, in torch or, where there is an export, with ONNX Runtime in the transformer's place.

    Token ids are kept for encoding where that gives what sentence-transformers gives; where a model needs more (prompts
    left out of pooling, chat templates), sentence-transformers tokenises the texts of each batch itself.
    """

    padded = True
    _ids_suffice = False

    def __init__(self, manifest: Manifest, model: Any, threads: int, precision: Precision, export: Path | None) -> None:
        super().__init__(manifest, model[0].tokenizer, model.prompts, model.default_prompt_name)
        self._model, self._forward, self._device = model, model, model.device
        self._threads, self._thread = threads, threading.local()
        limit = model.max_seq_length
        self.max_tokens = limit if limit is not None and limit < NO_LIMIT else None
        modes = [module.pooling_mode for module in model if isinstance(module, Pooling)]
        self.pooling = modes[0] if modes and isinstance(modes[0], str) else "mixed"
        self.batch_tokens = CPU_BATCH_TOKENS if model.device.type == "cpu" else GPU_BATCH_TOKENS
        self.precision, self.backend = precision, "torch"
        self._long_lock = threading.Lock()
        self._ids_suffice = self._compare_ids()
        if precision == "bfloat16":
            model.bfloat16()
        if export is not None and self._ids_suffice:
            session = onnx_session(export, threads)
            self.backend, self._forward = "onnx", partial(_forward_onnx, session, list(model)[1:])
            model[0].model = None  # torch's weights aren't needed any more
        elif precision == "int8":
            self.precision = "float32"

    def tokenise(self, texts: Sequence[str], options: EncodeOptions) -> list[Tokens]:
        return [
            Tokens(len(ids), total, ids if self._ids_suffice else text)
            for text, (ids, total) in zip(texts, truncated(self._ids, texts, options, self.max_tokens), strict=True)
        ]

    def encode(self, batch: Sequence[Tokens], options: EncodeOptions) -> Vectors:
        return self._run(self._features(batch, options))

    def token_vectors(self, tokens: Tokens, options: EncodeOptions) -> Vectors:
        return _to_array(self._compute(self._features([tokens], options))["token_embeddings"][0])

    def _run(self, features: dict[str, Any]) -> Vectors:
        return _to_array(self._compute(features)["sentence_embedding"])

    def _compute(self, features: dict[str, Any]) -> Any:
        if self._threads and not hasattr(self._thread, "ready"):
            torch.set_num_threads(self._threads)  # OpenMP counts for each thread by itself
            self._thread.ready = True
        for name, value in features.items():
            if isinstance(value, torch.Tensor):
                features[name] = value.to(self._device)
        with torch.inference_mode():
            return self._forward(features)

    def _features(self, batch: Sequence[Tokens], options: EncodeOptions) -> dict[str, Any]:
        if self._ids_suffice:
            return self._pad([tokens.payload for tokens in batch])
        with self._tokenizer_lock:
            self._model.tokenizer.truncation_side = options.truncation_side
            features: dict[str, Any] = self._model.preprocess(
                [tokens.payload for tokens in batch], prompt=options.prompt or None
            )
            return features

    def windows(self, text: str, options: EncodeOptions) -> list[str]:
        if self.max_tokens is None:
            return [text]
        room = self.max_tokens - len(self._ids([options.prompt], "right", None)[0])
        with self._long_lock:
            encoding = self._long_tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
        spans = [encoding.token_to_chars(place) for place in range(len(encoding.input_ids))]
        return cut(text, encoding.word_ids(), [None if span is None else span.start for span in spans], room)

    @cached_property
    def _long_tokenizer(self) -> Any:
        """A copy for long texts: short ones wait for no lock that a long one holds."""
        return copy.deepcopy(self._model.tokenizer)

    def _ids(self, texts: list[str], side: str, limit: int | None) -> list[list[int]]:
        is_long = any(len(text) > LONG_CHARS for text in texts)
        with self._long_lock if is_long else self._tokenizer_lock:
            tokenizer = self._long_tokenizer if is_long else self._model.tokenizer
            tokenizer.truncation_side = side
            ids: list[list[int]] = tokenizer(
                texts, truncation=limit is not None, max_length=limit, return_attention_mask=False, verbose=False
            )["input_ids"]
        return ids

    def _pad(self, rows: list[list[int]]) -> dict[str, Any]:
        tokenizer = self._model.tokenizer
        ids, mask = pad(rows, tokenizer.pad_token_id, tokenizer.padding_side)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def _compare_ids(self) -> bool:
        """Whether padding the ids ourselves gives what sentence-transformers gives, also with the version's prompts."""
        if self._model.tokenizer.pad_token_id is None:
            return False
        for prompt in {"", self.default_prompt, *self.prompts.values()}:
            ids = self._ids([prompt + text for text in PROBE_SENTENCES], "right", self.max_tokens)
            own = self._run(self._pad(ids))
            theirs = self.encode([Tokens(0, 0, text) for text in PROBE_SENTENCES], EncodeOptions(prompt))
            if not np.allclose(own, theirs, atol=1e-5):
                return False
        return True


def _forward_onnx(session: Any, modules: list[Any], features: dict[str, Any]) -> Any:
    inputs = {name: features[name].numpy() for name in ("input_ids", "attention_mask")}
    features["token_embeddings"] = torch.from_numpy(session.run(None, inputs)[0])
    for module in modules:
        features = module(features)
    return features
