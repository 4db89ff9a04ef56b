"""A static student in memory. torch alone: importing sentence-transformers takes four times as long as all else."""

import json
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from services.embedding.models.base import EncodeOptions, Precision, Tokens, Vectors
from services.embedding.models.plain_text import plain_rules
from services.embedding.models.torch import Student, TorchEncoder
from shared.manifest import Manifest

WEIGHTS = "embedding.weight"


def load(folder: Path, manifest: Manifest, path: str, device: str, threads: int) -> "StaticEncoder":
    """The version in `folder`, whose only module is a `StaticEmbedding` in its part `path`, as it was saved."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    table = load_file(folder / path / "model.safetensors", device=device)[WEIGHTS]
    tokenizer = Tokenizer.from_file(str(folder / path / "tokenizer.json"))
    tokenizer.no_padding()
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    # As sentence-transformers has it: the two are there, and empty unless the version says otherwise.
    prompts = {"query": "", "document": ""} | (config.get("prompts") or {})
    student = Student(tokenizer, prompts, config.get("default_prompt_name"), partial(_mean, table), table.device)
    return StaticEncoder(manifest, student, table, threads)


def _mean(table: torch.Tensor, features: dict[str, Any]) -> dict[str, Any]:
    bag = torch.nn.functional.embedding_bag(features["input_ids"], table, features["offsets"], mode="mean")
    return features | {"sentence_embedding": bag}


class StaticEncoder(TorchEncoder):
    """The mean of a text's token vectors. Its token ids are kept for encoding: tokenising is most of the work."""

    padded = False
    batch_tokens = 16_384
    max_tokens = None
    pooling = "mean"
    backend = "static"
    precision: Precision = "float32"

    def __init__(self, manifest: Manifest, student: Student, table: torch.Tensor, threads: int) -> None:
        """`table`: the vector of each token, [tokens, dimensions]."""
        super().__init__(manifest, student, threads)
        self._table = table
        self._plain_rules = plain_rules(self._raw_tokenizer)
        self._normalised = Tokenizer.from_str(self._raw_tokenizer.to_str())
        """Takes texts to which the rules have been applied."""
        self._normalised.normalizer = None
        self._normalised.encode_special_tokens = self._special_is_text  # a copy forgets it

    def tokenise(self, texts: Sequence[str], options: EncodeOptions) -> list[Tokens]:
        prompted = [options.prompt + text for text in texts] if options.prompt else list(texts)
        tokenizer = self._raw_tokenizer
        # The library's rules cost as much as all else: those on plain text are Python's own string methods.
        if self._plain_rules is not None and all(text.isascii() and text.isprintable() for text in prompted):
            prompted, tokenizer = [self._plain_rules(text) for text in prompted], self._normalised
        # "fast" leaves out the offsets into the text; the ids are those of sentence-transformers.
        encodings = tokenizer.encode_batch_fast(prompted, add_special_tokens=False)
        return [Tokens(len(ids), len(ids), ids) for ids in (encoding.ids for encoding in encodings)]

    def encode(self, batch: Sequence[Tokens], options: EncodeOptions) -> Vectors:  # noqa: ARG002
        # A text of unknown tokens only gives a zero vector.
        flat = np.fromiter(chain.from_iterable(tokens.payload for tokens in batch), dtype=np.int64)
        offsets = [0, *accumulate(tokens.count for tokens in batch)][:-1]
        return self._run({"input_ids": torch.from_numpy(flat), "offsets": torch.tensor(offsets)})

    def token_vectors(self, tokens: Tokens, options: EncodeOptions) -> Vectors:  # noqa: ARG002
        return self._to_array(self._table[tokens.payload])

    def windows(self, text: str, options: EncodeOptions) -> list[str]:  # noqa: ARG002
        return [text]
