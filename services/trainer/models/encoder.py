"""Students with torch, transformers and sentence-transformers: load, encode, save. Importing it takes seconds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from scipy.sparse import csr_matrix
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from services.trainer.models.normalization import static_tokenizer
from services.trainer.models.static import Embeddings, Table, word_vectors
from shared.errors import Fatal, first_line

TOKEN_TABLE = "model.embed_tokens.weight"
ENCODE_BATCH = 128


def load(model: str, setting: str) -> Any:
    """A SentenceTransformer from a folder or hub id, its code never run; by default mean pooling. Raises `Fatal`."""
    transformers_logging.disable_progress_bar()
    try:
        if Path(model, "config.json").is_file() and not Path(model, "modules.json").is_file():
            transformer = Transformer(model)
            pooling = Pooling(transformer.get_embedding_dimension(), "mean")
            student = SentenceTransformer(modules=[transformer, pooling])
        else:
            student = SentenceTransformer(model, trust_remote_code=False)
        if getattr(student.tokenizer, "pad_token", "") is None:  # texts of a batch have different lengths
            raise ValueError("its tokenizer has no padding token; set pad_token in its tokenizer_config.json")
        return student
    except Exception as error:  # whatever a broken or unreachable model makes the libraries raise
        raise Fatal(f"{setting}: can't load {model!r}: {first_line(error)}") from None


def is_static(model: Any) -> bool:
    """Whether the student is a table of token embeddings and nothing else that learns."""
    return isinstance(model[0], StaticEmbedding)


def dimensions(model: Any) -> int:
    """Length of the student's vectors."""
    return int(model.get_embedding_dimension())


def max_seq_length(model: Any) -> int | None:
    """Longest text that is read whole, in tokens; None without a limit."""
    limit = model.max_seq_length
    return int(limit) if limit is not None and np.isfinite(limit) else None


def default_prompt(model: Any) -> str:
    """What the student puts before each text; mostly empty."""
    return str((model.prompts or {}).get(model.default_prompt_name) or "")


def encode(model: Any, texts: Sequence[str]) -> Embeddings:
    """The vectors of `texts`: float32 [len(texts), dimensions], not normalised by us."""
    return np.asarray(model.encode(list(texts), batch_size=ENCODE_BATCH, show_progress_bar=False), np.float32)


def bag_of_tokens_matrix(model: Any, texts: Sequence[str]) -> Any:
    """The share of each of a student's tokens in each text: a SciPy CSR matrix [texts, tokens]."""
    tokenizer_ = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)  # the `tokenizers` library's own
    tokenizer_ = Tokenizer.from_str(tokenizer_.to_str())  # transformers leaves its last cut and padding in it
    tokenizer_.no_truncation()
    tokenizer_.no_padding()
    encodings = tokenizer_.encode_batch(list(texts), add_special_tokens=False)
    counts = [len(encoding.ids) for encoding in encodings]
    columns = np.concatenate([np.asarray(encoding.ids, np.int64) for encoding in encodings])
    shares, row_starts = np.repeat(1 / np.maximum(counts, 1), counts), np.concatenate([[0], np.cumsum(counts)])
    size = model[0].num_embeddings if is_static(model) else tokenizer_.get_vocab_size()
    return csr_matrix((shares, columns, row_starts), shape=(len(texts), size))


def add_linear_map(model: Any, matrix: Table) -> None:
    """Let a transformer's vectors be mapped by `matrix`, [dimensions, dimensions], before they are normalised."""
    size, weights = len(matrix), torch.from_numpy(matrix).to(model.device)
    dense = Dense(size, size, bias=False, activation_function=None, init_weight=weights)
    model.insert(len(model) - isinstance(model[-1], Normalize), dense)


def token_embeddings(model: Any) -> Table:
    """A static student's token embeddings, [tokens, dimensions]."""
    return _as_table(model[0].embedding.weight)


def set_token_embeddings(model: Any, table: Table) -> None:
    """Give a static student other token embeddings of the same shape."""
    model[0].embedding.weight.data.copy_(torch.from_numpy(table))


def save(model: Any, folder: Path) -> None:
    """Write the student in sentence-transformers' format, without a model card."""
    model.save(str(folder), create_model_card=False, safe_serialization=True)


def static_student(tokenizer_: Any, table: Table) -> Any:
    """A student that embeds a text as the mean of its tokens' vectors, made of a teacher's token table."""
    own_tokenizer, ids = static_tokenizer(tokenizer_.backend_tokenizer, len(table))
    vectors = word_vectors(table, tokens(tokenizer_, len(table)))[ids]
    return SentenceTransformer(modules=[StaticEmbedding(own_tokenizer, embedding_weights=vectors)], device="cpu")


def tokenizer(folder: Path) -> Any:
    """A teacher's tokenizer. Raises `Fatal`."""
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not loaded.is_fast:
        raise Fatal(f"PAIRWRIGHT_TEACHER: {folder} has no fast tokenizer; name a student with PAIRWRIGHT_STUDENT")
    return loaded


def tokens(tokenizer_: Any, count: int) -> list[str]:
    """The vocabulary's first `count` tokens by id; "" where a row of the token table has none."""
    return [token or "" for token in tokenizer_.convert_ids_to_tokens(list(range(count)))]


def token_table(folder: Path) -> Table:
    """A teacher's input embeddings, [tokens, hidden], read without the rest of the model where the files allow."""
    index, file = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        file = folder / json.loads(index.read_text())["weight_map"].get(TOKEN_TABLE, "")
    if file.is_file():
        with safe_open(file, framework="pt") as tensors:
            if TOKEN_TABLE in tensors.keys():  # noqa: SIM118 -- not a dict
                return _as_table(tensors.get_tensor(TOKEN_TABLE))
    return table_of(AutoModel.from_pretrained(folder, local_files_only=True))


def table_of(model: Any) -> Table:
    """The input embeddings of a model that is loaded, [tokens, hidden]."""
    return _as_table(model.get_input_embeddings().weight)


def _as_table(tensor: Any) -> Table:
    return np.asarray(tensor.detach().cpu().to(torch.float32).numpy())
