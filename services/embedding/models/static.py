"""A static student in memory, by NumPy alone: importing torch takes longer than all else."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer

from services.embedding.models.base import EncodeOptions, Precision, Tokens, Vectors
from services.embedding.models.plain_text import plain_rules
from services.embedding.models.tokenizing import TokenizingEncoder
from shared.manifest import Manifest

WEIGHTS = "embedding.weight"
LONG, FEW, TOGETHER = 64, 16, 64
"""Texts of more tokens, and so few texts, are summed one after the other; others so many at a time."""
ROWS = 1024
"""Of the table, copied at a time: a text of a million tokens needs no more memory."""


def load(folder: Path, manifest: Manifest, path: str) -> "StaticEncoder | None":
    """The version in `folder`, whose only module is a `StaticEmbedding` in its part `path`, as it was saved; None for
    numbers that NumPy doesn't have."""
    file = folder / path / "model.safetensors"
    with safe_open(file, "numpy") as opened:
        if opened.get_slice(WEIGHTS).get_dtype() not in ("F32", "F16"):
            return None
        table = opened.get_tensor(WEIGHTS).astype(np.float32, copy=False)
    tokenizer = Tokenizer.from_file(str(folder / path / "tokenizer.json"))
    tokenizer.no_padding()
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    # As sentence-transformers has it: the two are there, and empty unless the version says otherwise.
    prompts = {"query": "", "document": ""} | (config.get("prompts") or {})
    return StaticEncoder(manifest, tokenizer, prompts, config.get("default_prompt_name"), table)


class StaticEncoder(TokenizingEncoder):
    """The mean of a text's token vectors. Its token ids are kept for encoding: tokenising is most of the work."""

    padded = False
    batch_tokens = 16_384
    max_tokens = None
    pooling = "mean"
    backend = "static"
    precision: Precision = "float32"

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Any,
        prompts: Mapping[str, str | None],
        default_prompt_name: str | None,
        table: Vectors,
        behind: Callable[[Vectors], Vectors] | None = None,
    ) -> None:
        """`table`: the vector of each token, [tokens, dimensions]. `behind`: what the modules behind it do to means."""
        super().__init__(manifest, tokenizer, prompts, default_prompt_name)
        self._table, self._behind = table, behind
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
        means = mean_rows(self._table, [tokens.payload for tokens in batch])
        return means if self._behind is None else self._behind(means)

    def token_vectors(self, tokens: Tokens, options: EncodeOptions) -> Vectors:  # noqa: ARG002
        vectors: Vectors = self._table.take(tokens.payload, axis=0)
        return vectors

    def windows(self, text: str, options: EncodeOptions) -> list[str]:  # noqa: ARG002
        return [text]


def mean_rows(table: Vectors, ids: Sequence[Sequence[int]]) -> Vectors:
    """The mean of the rows of `table` that each text's `ids` name, [texts, dimensions]; of none, zeros."""
    counts = np.array([len(row) for row in ids])
    flat, starts = np.fromiter(chain.from_iterable(ids), np.int64), np.cumsum(counts) - counts
    order = np.argsort(-counts, kind="stable")
    alone = len(ids) if len(ids) <= FEW else int((counts > LONG).sum())
    sums = np.zeros((len(ids), table.shape[1]), np.float32)
    for number in order[:alone]:
        row = flat[starts[number] : starts[number] + counts[number]]
        for first in range(0, len(row), ROWS):
            sums[number] += table.take(row[first : first + ROWS], axis=0).sum(axis=0)
    for first in range(alone, len(ids), TOGETHER):  # the texts' first tokens, then their second ones, and so on
        numbers = order[first : first + TOGETHER]
        part, begins = np.zeros((len(numbers), table.shape[1]), np.float32), starts[numbers]
        longer = np.searchsorted(-counts[numbers], -np.arange(counts[numbers[0]]))
        for place, some in enumerate(longer.tolist()):
            part[:some] += table.take(flat[begins[:some] + place], axis=0)
        sums[numbers] = part
    sums /= np.maximum(counts, 1).astype(np.float32)[:, None]
    return sums
