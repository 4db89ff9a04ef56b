"""The compact student: four bidirectional layers that read the static student's token embeddings in context.

Those embeddings stay as they are, so only the layers are shipped. Untrained ones add nothing: with them, the student's
cosines are nearly the static student's. The architecture is ModernBERT's (Warner et al. 2024), with attention to all
tokens. How the layers were trained: `experiments/compact.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, safe_open, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

from services.trainer.models.static import Table, fingerprint

FILE = Path(__file__).with_name("compact.safetensors")
HIDDEN, LAYERS, HEADS, INTERMEDIATE = 256, 4, 8, 512
LONGEST = 512
"""Tokens of a text that are read."""
CONSTANT = 2
"""The last dimensions of a token embedding are one number and its negative. A layer norm makes all tokens equally long
and would take their weights in a mean from them; beside a large constant, short vectors stay short."""
PAD, START = "<pad>", "<start>"
"""A text begins with `START`, so that an empty one has a token. Its own vector is zero but for the constant."""
TOKEN_EMBEDDINGS, HEAD, REFERENCE = "embeddings.tok_embeddings.weight", "head", "reference"
REFERENCES = 2_400
"""About so many tokens, evenly spread over the vocabulary, are the reference for `align`."""


@dataclass(frozen=True)
class Layers:
    """All that was trained, and the axes that it was trained on."""

    parameters: dict[str, Tensor]
    reference: Table
    """Token embeddings of tokens spread over the vocabulary, [tokens, 254]."""


def student(tokenizer: Any, token_embeddings: Table, layers: Layers | None = None) -> Any:
    """A SentenceTransformer on a static student's `tokenizer` and `token_embeddings`, [tokens, dimensions].

    Without `layers` it is untrained, and takes the first 254 dimensions, which must be principal axes.
    """
    size = HIDDEN - CONSTANT
    vectors = align(token_embeddings, layers.reference) if layers else token_embeddings[:, :size]
    model = ModernBertModel(_config(len(vectors)))
    table = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    with torch.no_grad():
        weights = model.embeddings.tok_embeddings.weight.zero_()
        weights[: len(table), :size] = (table - table.mean(dim=1, keepdim=True)) / table.norm(dim=1).mean()
        weights[:, size], weights[:, size + 1] = 1.0, -1.0
        for layer in model.layers:
            layer.attn.Wo.weight.zero_()
            layer.mlp.Wo.weight.zero_()
    head = torch.eye(HIDDEN)
    head[size:] = 0.0
    with TemporaryDirectory() as folder:  # sentence-transformers takes no model in memory
        model.save_pretrained(folder)
        _tokenizer(tokenizer).save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=LONGEST)
    dense = Dense(HIDDEN, HIDDEN, bias=False, activation_function=None, init_weight=head)
    made = SentenceTransformer(modules=[transformer, Pooling(HIDDEN, "mean"), dense], device="cpu")
    if layers:
        with torch.no_grad():
            for name, parameter in trained_parameters(made).items():
                parameter.copy_(layers.parameters[name])
    return made


def layers_of(table: Table, file: Path = FILE) -> Layers | None:
    """The layers, if they were trained for students of the teacher that has this token table."""
    with safe_open(file, framework="pt") as opened:
        if opened.metadata()["teacher"] != fingerprint(table):
            return None
    tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
    reference = tensors.pop(REFERENCE).numpy()
    return Layers(tensors, reference)


def save_layers(model: Any, token_embeddings: Table, teacher: Table, facts: dict[str, str], file: Path = FILE) -> None:
    """Write what `layers_of` reads, in half precision; `token_embeddings` and `teacher` as in `student`, `layers_of`.

    `facts` are kept as metadata: what went into the layers.
    """
    tensors = {name: parameter.detach().to(torch.float16) for name, parameter in trained_parameters(model).items()}
    tensors[REFERENCE] = torch.from_numpy(_spread(token_embeddings)[:, : HIDDEN - CONSTANT]).to(torch.float16)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, file, {"teacher": fingerprint(teacher), **facts})


def align(token_embeddings: Table, reference: Table) -> Table:
    """Token embeddings [tokens, 254] on the axes of `reference`, whose rows are tokens spread over the vocabulary.

    The same student made on another processor may have near axes swapped or turned among themselves, which no cosine
    of its own tells. The map is the nearest rotation (Schönemann 1966).
    """
    rows = _spread(token_embeddings).astype(np.float64)
    left, _, right = np.linalg.svd(rows.T @ reference.astype(np.float64), full_matrices=False)
    return np.asarray(token_embeddings @ (left @ right), np.float32)


def trained_parameters(model: Any) -> dict[str, Any]:
    """All that is learnt, by name: everything but the token embeddings."""
    named = dict(model[0].auto_model.named_parameters())
    return {name: one for name, one in named.items() if name != TOKEN_EMBEDDINGS} | {HEAD: model[2].linear.weight}


def _spread(token_embeddings: Table) -> Table:
    return token_embeddings[:: max(1, len(token_embeddings) // REFERENCES)]


def _config(tokens: int) -> ModernBertConfig:
    specials = {f"{name}_token_id": tokens for name in ("pad", "eos", "sep")}
    starts = {f"{name}_token_id": tokens + 1 for name in ("bos", "cls")}
    return ModernBertConfig(
        vocab_size=tokens + 2,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LONGEST,
        global_attn_every_n_layers=1,
        **specials,
        **starts,
    )


def _tokenizer(static: Any) -> PreTrainedTokenizerFast:
    own = Tokenizer.from_str(static.to_str())
    own.add_special_tokens([PAD, START])
    own.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[(START, own.token_to_id(START))])
    return PreTrainedTokenizerFast(tokenizer_object=own, pad_token=PAD, cls_token=START, model_max_length=LONGEST)
