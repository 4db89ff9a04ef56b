"""A transformer on a CPU by its export alone: ONNX Runtime and NumPy, where the version's record says that they do.

sentence-transformers and torch, which take ten seconds to import and most of the memory, are not imported.
"""

import copy
import json
import logging
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from services.embedding.models.base import LONG_CHARS, EncodeOptions, Encoder, Precision, Tokens, Vectors
from services.embedding.models.tokenizing import TokenizingEncoder, truncated
from services.embedding.settings import Backend, PrecisionSetting
from shared.manifest import INT8_LEAST_SPEEDUP, Manifest

log = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 1024
"""On a CPU, a batch that stays in the caches is the fastest; measured on 2 cores (docs/benchmarks.md)."""
IDENTITY = "torch.nn.modules.linear.Identity"
Ids = npt.NDArray[np.int64]
Step = Callable[[Vectors, Ids], Vectors]
"""From token vectors or a text's vector, and the mask, to the next module's."""


def choose(
    manifest: Manifest, on_cpu: bool, setting: PrecisionSetting, backend: Backend
) -> tuple[Precision, str | None]:
    """What to compute in, and the export that does it; None for torch. Records say what is true and no slower."""
    exact, int8 = manifest.onnx, manifest.int8
    if exact is None or exact.verdict or not on_cpu or backend != "auto":
        exact = None
    holds = on_cpu and int8 is not None and not int8.verdict
    if setting == "auto":
        faster = holds and int8 is not None and (exact is None or int8.speedup >= INT8_LEAST_SPEEDUP * exact.speedup)
        precision: Precision = "int8" if faster else "float32" if on_cpu else "bfloat16"
    elif setting == "int8" and not holds:
        why = "it is not computed on a CPU" if not on_cpu else "it has no int8 export" if int8 is None else int8.verdict
        log.warning("%s: float32 instead of int8, because %s", manifest.id, why)
        precision = "float32"
    else:
        precision = setting
    if precision == "int8" and int8 is not None:
        return precision, int8.file
    return precision, exact.file if exact is not None and precision == "float32" else None


def load(
    folder: Path,
    manifest: Manifest,
    modules: Sequence[dict[str, Any]],
    device: str,
    threads: int,
    setting: PrecisionSetting,
    backend: Backend,
) -> Encoder | None:
    """The version in `folder`; None where it takes torch or sentence-transformers to serve it."""
    on_cpu = device == "cpu" or (device == "auto" and _no_gpu())
    if not on_cpu or manifest.max_seq_length is None or manifest.onnx is None or not manifest.onnx.tokenizer:
        return None
    precision, file = choose(manifest, on_cpu=True, setting=setting, backend=backend)
    steps = [_step(folder, module) for module in modules[1:]]
    padding = _Padding.of(folder)
    if file is None or padding is None or not steps or steps[0] not in POOLING.values() or None in steps:
        return None
    session = onnx_session(folder / file, threads)
    return ExportedEncoder(manifest, folder, precision, session, padding, [*filter(None, steps)])


class _Padding(NamedTuple):
    token: int
    side: str

    @classmethod
    def of(cls, folder: Path) -> "_Padding | None":
        """As the version's tokenizer pads; None where it names no token that it has."""
        own = json.loads((folder / "tokenizer_config.json").read_text())
        name = own.get("pad_token")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        token = tokenizer.token_to_id(name) if isinstance(name, str) else None
        return None if token is None else cls(token, own.get("padding_side", "right"))


def _no_gpu() -> bool:
    """Whether torch is a build for CPUs alone, as far as its version says without importing it."""
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return True


class ExportedEncoder(TokenizingEncoder):
    """Token ids in, the export's token vectors pooled by NumPy out."""

    padded = True
    batch_tokens = CPU_BATCH_TOKENS
    backend = "onnx"

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        precision: Precision,
        session: Any,
        padding: _Padding,
        steps: Sequence[Step],
    ) -> None:
        config = json.loads((folder / "config_sentence_transformers.json").read_text())
        prompts = {"query": "", "document": ""} | (config.get("prompts") or {})
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        super().__init__(manifest, tokenizer, prompts, config.get("default_prompt_name"))
        tokenizer.no_padding()
        self.max_tokens = manifest.max_seq_length
        self.precision = precision
        self.pooling = next(name for name, step in POOLING.items() if step is steps[0]) or ""
        self._session, self._padding, self._steps = session, padding, steps
        self._long_lock = threading.Lock()

    def tokenise(self, texts: Sequence[str], options: EncodeOptions) -> list[Tokens]:
        read = truncated(self._ids, texts, options, self.max_tokens)
        return [Tokens(len(ids), total, ids) for ids, total in read]

    def encode(self, batch: Sequence[Tokens], options: EncodeOptions) -> Vectors:  # noqa: ARG002
        vectors, mask = self._token_vectors([tokens.payload for tokens in batch])
        for step in self._steps:
            vectors = step(vectors, mask)
        return np.asarray(vectors, np.float32)

    def token_vectors(self, tokens: Tokens, options: EncodeOptions) -> Vectors:  # noqa: ARG002
        vectors: Vectors = self._token_vectors([tokens.payload])[0][0]
        return vectors

    def windows(self, text: str, options: EncodeOptions) -> list[str]:
        if self.max_tokens is None:
            return [text]
        room = self.max_tokens - len(self._ids([options.prompt], "right", None)[0])
        with self._long_lock:
            self._long_tokenizer.no_truncation()
            encoding = self._long_tokenizer.encode(text, add_special_tokens=False)
        return cut(text, encoding.word_ids, [start for start, _ in encoding.offsets], room)

    def _token_vectors(self, rows: list[list[int]]) -> tuple[Vectors, Ids]:
        ids, mask = pad(rows, *self._padding)
        return self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0], mask

    def _ids(self, texts: list[str], side: str, limit: int | None) -> list[list[int]]:
        is_long = any(len(text) > LONG_CHARS for text in texts)
        with self._long_lock if is_long else self._tokenizer_lock:
            tokenizer = self._long_tokenizer if is_long else self._raw_tokenizer
            if limit is None:
                tokenizer.no_truncation()
            else:
                tokenizer.enable_truncation(limit, direction=side)
            return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]

    @cached_property
    def _long_tokenizer(self) -> Any:
        """A copy for long texts: short ones wait for no lock that a long one holds."""
        tokenizer = copy.deepcopy(self._raw_tokenizer)
        tokenizer.encode_special_tokens = self._special_is_text  # a copy forgets it
        return tokenizer


def _step(folder: Path, module: dict[str, Any]) -> Step | None:
    """What a module behind the transformer does; None for one that isn't known here."""
    kind = module["type"].rpartition(".")[2]
    file = folder / module["path"] / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    if kind == "Pooling" and config.get("include_prompt", True):
        return POOLING.get(config.get("pooling_mode"))
    if kind == "Normalize":
        return _normalise
    if kind == "Dense" and config.get("activation_function") == IDENTITY and _is_plain(config):
        from safetensors.numpy import load_file

        weights = load_file(folder / module["path"] / "model.safetensors")
        matrix, bias = weights["linear.weight"].T, weights.get("linear.bias", np.float32(0))
        return lambda vectors, _: np.asarray(vectors @ matrix + bias)
    return None


def _is_plain(dense: dict[str, Any]) -> bool:
    names = (dense.get(f"module_{side}_name", "sentence_embedding") for side in ("input", "output"))
    return all(name == "sentence_embedding" for name in names)


def _mean(vectors: Vectors, mask: Ids) -> Vectors:
    """Over the tokens of each text; a text without any gives zeros."""
    sums = np.einsum("ijk,ij->ik", vectors, mask.astype(np.float32))
    return np.asarray(sums / np.maximum(mask.sum(axis=1, keepdims=True), 1e-9).astype(np.float32))


def _first(vectors: Vectors, mask: Ids) -> Vectors:
    """The first token's, on whichever side texts are padded."""
    return np.asarray(vectors[np.arange(len(vectors)), mask.argmax(axis=1)])


POOLING: dict[str | None, Step] = {"mean": _mean, "cls": _first}


def _normalise(vectors: Vectors, _: Ids) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def onnx_session(file: Path, threads: int) -> Any:
    """A transformer from token ids to token vectors. Several threads may run it at a time."""
    import onnxruntime  # half a second, and versions without an export need none of it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads take the cores from the event loop: measured, it halves the throughput of 2 cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # it grows to the largest batch and never shrinks
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def pad(rows: Sequence[Sequence[int]], pad_id: int, side: str) -> tuple[Ids, Ids]:
    """Token ids and their mask, each [rows, longest]."""
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        part = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[place, part], mask[place, part] = row, 1
    return ids, mask


def cut(text: str, words: Sequence[int | None], starts: Sequence[int | None], room: int) -> list[str]:
    """`text` in pieces of `room` tokens at most, between words where possible; of each token its word and its start."""
    if room < 1 or len(words) <= room:
        return [text]
    pieces, first, start = [], 0, 0
    while len(words) - first > room:
        last = _break_before(words, first, first + room)
        found = starts[last]
        stop = found if found is not None else len(text)
        pieces.append(text[start:stop])
        first, start = last, stop
    return [piece for piece in [*pieces, text[start:]] if piece.strip()]


def _break_before(words: Sequence[int | None], first: int, end: int) -> int:
    """The last place up to `end` where a word begins; `end` itself when there is none in the window's last tenth."""
    for place in range(end, max(first, end - max(1, (end - first) // 10) - 1), -1):
        if words[place] != words[place - 1]:
            return place
    return end
