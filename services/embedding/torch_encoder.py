"""The door to sentence-transformers and torch: a version's folder becomes an `Encoder`.

Importing this module takes seconds, so it is imported by the thread that loads the first version.
"""

from collections.abc import Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from transformers.utils import logging as transformers_logging

from services.embedding.encoder import Encoder, Options, Tokens, Vectors
from shared.model_store import BrokenVersion, Manifest

NO_LIMIT = 1_000_000
"""transformers writes "no limit" as a huge number."""


def load(folder: Path, manifest: Manifest, device: str, threads: int) -> Encoder:
    """The version in `folder`. Raises `BrokenVersion` for a kind of model that isn't served."""
    transformers_logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    # A version holds safetensors only (`ModelStore.verify`), and code is never taken from a model's folder.
    model = SentenceTransformer(
        str(folder), device=None if device == "auto" else device, local_files_only=True, trust_remote_code=False
    )
    model.eval()
    kind = type(model[0])
    if kind is StaticEmbedding:
        return StaticEncoder(manifest, model)
    if kind is Transformer:
        return TransformerEncoder(manifest, model)
    raise BrokenVersion(f"{manifest.id}: begins with {kind.__name__}; StaticEmbedding and Transformer are served")


class _TorchEncoder(Encoder):
    """What both kinds share: prompts, and running the model's modules."""

    def __init__(self, manifest: Manifest, model: Any) -> None:
        super().__init__(manifest)
        self._model = model
        self.prompts = {name: prompt or "" for name, prompt in model.prompts.items()}
        self.default_prompt = self.prompts.get(model.default_prompt_name, "")

    def _run(self, features: dict[str, Any]) -> Vectors:
        device = self._model.device
        features = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in features.items()
        }
        with torch.inference_mode():
            vectors = self._model(features)["sentence_embedding"][:, : self._model.truncate_dim]
        array: Vectors = vectors.float().cpu().numpy()
        return array


class StaticEncoder(_TorchEncoder):
    """The mean of a text's token vectors. Its token ids are kept for encoding: tokenising is most of the work."""

    padded = False
    max_tokens = None
    pooling = "mean"

    def tokenise(self, texts: Sequence[str], options: Options) -> list[Tokens]:
        """See `Encoder`. Nothing is truncated."""
        prompted = [options.prompt + text for text in texts]
        # "fast" leaves out the offsets into the text; the ids are those of sentence-transformers.
        encodings = self._model[0].tokenizer.encode_batch_fast(prompted, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        return [Tokens(len(one), len(one), one) for one in ids]

    def encode(self, batch: Sequence[Tokens], options: Options) -> Vectors:  # noqa: ARG002
        """See `Encoder`. A text without a known token gives a zero vector."""
        flat = np.fromiter(chain.from_iterable(tokens.payload for tokens in batch), dtype=np.int64)
        offsets = [0, *accumulate(tokens.count for tokens in batch)][:-1]
        return self._run({"input_ids": torch.from_numpy(flat), "offsets": torch.tensor(offsets)})


class TransformerEncoder(_TorchEncoder):
    """A transformer with pooling. Texts are tokenised again for their batch, by sentence-transformers itself:

    two or three percent of the work, and whatever a model needs (prompts left out of pooling, chat templates) is right.
    """

    padded = True

    def __init__(self, manifest: Manifest, model: Any) -> None:
        super().__init__(manifest, model)
        limit = model.max_seq_length
        self.max_tokens = limit if limit is not None and limit < NO_LIMIT else None
        modes = [module.pooling_mode for module in model if isinstance(module, Pooling)]
        self.pooling = modes[0] if modes and isinstance(modes[0], str) else "mixed"

    def tokenise(self, texts: Sequence[str], options: Options) -> list[Tokens]:
        """See `Encoder`."""
        prompted = [options.prompt + text for text in texts]
        ids = self._model.tokenizer(prompted, return_attention_mask=False, verbose=False)["input_ids"]
        lengths = [len(one) for one in ids]
        return [
            Tokens(min(length, self.max_tokens or length), length, text)
            for text, length in zip(texts, lengths, strict=True)
        ]

    def encode(self, batch: Sequence[Tokens], options: Options) -> Vectors:
        """See `Encoder`."""
        self._model.tokenizer.truncation_side = options.truncation_side
        texts = [tokens.payload for tokens in batch]
        return self._run(self._model.preprocess(texts, prompt=options.prompt or None))
