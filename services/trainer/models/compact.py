"""The compact student: bidirectional layers that read the static student's token embeddings in context.

Those embeddings stay as they are, so only the layers are shipped. Untrained ones add nothing: with them, the student's
cosines are the static student's. The architecture is ModernBERT's (Warner et al. 2024), with attention to all tokens.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from tokenizers import Tokenizer
from torch import Tensor
from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

from services.trainer.models import encoder
from services.trainer.models.static import Table, fingerprint

FILE = Path(__file__).with_name("compact.safetensors")
HIDDEN, LAYERS, HEADS, INTERMEDIATE = 256, 4, 8, 512
LONGEST = 512
"""Tokens of a text that are read."""
CONSTANT = 2
"""The last dimensions of a token embedding are one number and its negative. A layer norm makes all tokens equally long
and would take their weights in a mean from them; beside a large constant, short vectors stay short."""
PAD = "<pad>"
TABLE = "embeddings.tok_embeddings.weight"


def untrained(static: Any) -> Any:
    """A compact student with the token embeddings of a static one, as a SentenceTransformer.

    Of the static student's dimensions it has the first 254, which must be principal axes.
    """
    table = torch.from_numpy(encoder.token_embeddings(static))[:, : HIDDEN - CONSTANT]
    count, dimensions = table.shape
    specials = dict.fromkeys(("pad", "bos", "eos", "cls", "sep"), count)
    config = ModernBertConfig(
        vocab_size=count + 1,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LONGEST,
        global_attn_every_n_layers=1,
        **{f"{name}_token_id": number for name, number in specials.items()},
    )
    model = ModernBertModel(config)
    length = table.norm(dim=1).mean()
    weights = torch.zeros(count + 1, HIDDEN)
    weights[:count, :dimensions] = (table - table.mean(dim=1, keepdim=True)) / length
    weights[:, HIDDEN - 2], weights[:, HIDDEN - 1] = 1.0, -1.0
    head = torch.eye(HIDDEN)
    head[HIDDEN - CONSTANT :] = 0.0
    with torch.no_grad():
        model.embeddings.tok_embeddings.weight.copy_(weights)
        for layer in model.layers:
            layer.attn.Wo.weight.zero_()
            layer.mlp.Wo.weight.zero_()
    with TemporaryDirectory() as folder:  # sentence-transformers takes no model in memory
        model.save_pretrained(folder)
        _tokenizer(static.tokenizer).save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=LONGEST)
    dense = Dense(HIDDEN, HIDDEN, bias=False, activation_function=None, init_weight=head)
    return SentenceTransformer(modules=[transformer, Pooling(HIDDEN, "mean"), dense], device="cpu")


def layers_of(table: Table) -> dict[str, Tensor] | None:
    """The trained layers, if they were trained for students of the teacher that has this token table."""
    with safe_open(FILE, framework="pt") as file:
        if file.metadata()["teacher"] != fingerprint(table):
            return None
        return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 -- no dict


def set_layers(model: Any, layers: Mapping[str, Tensor]) -> None:
    """Give a compact student trained layers."""
    with torch.no_grad():
        for name, parameter in _parameters(model).items():
            parameter.copy_(layers[name])


def save_layers(model: Any, table: Table) -> None:
    """Write what `layers_of` reads, in half precision; `table` is the teacher's."""
    layers = {name: parameter.detach().to(torch.float16).contiguous() for name, parameter in _parameters(model).items()}
    save_file(layers, FILE, {"teacher": fingerprint(table)})


def freeze_token_embeddings(model: Any) -> None:
    """Only the layers of a compact student learn from here on."""
    model[0].auto_model.get_input_embeddings().weight.requires_grad_(False)


def _parameters(model: Any) -> dict[str, Any]:
    """All that is learnt but the token embeddings, by name."""
    named = dict(model[0].auto_model.named_parameters())
    return {name: one for name, one in named.items() if name != TABLE} | {"head": model[2].linear.weight}


def _tokenizer(static: Any) -> PreTrainedTokenizerFast:
    own = Tokenizer.from_str(static.to_str())
    own.add_special_tokens([PAD])
    return PreTrainedTokenizerFast(tokenizer_object=own, pad_token=PAD, model_max_length=LONGEST)
