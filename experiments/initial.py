"""Initial word vectors: variations on services/trainer/static.py."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.configuration import Initial
from services.trainer.models import encoder

Array = npt.NDArray[np.float64]
BATCH = 1024


def vectors(options: Initial, teacher: Path, tokenizer: Any, texts: Sequence[str]) -> Array:
    """Static vectors [tokens, up to `dimensions`]. `texts` are what `idf` counts in."""
    table = _source(options.source, teacher)
    ids = np.arange(len(table), dtype=np.float64)
    if options.fold != "none":
        table, ids = _folded(table, tokenizer, options.fold)
    weights = _weights(options, ids, tokenizer, texts)
    centred = table - table.mean(axis=0)
    values, components = _components(options.source, options.fold, centred)
    part = slice(options.dropped, options.dropped + options.dimensions)
    scale = np.maximum(values[part], values[0] * 1e-9) ** (-options.whitening / 2)
    found: Array = (centred @ (components[:, part] * scale)) * weights[:, None]
    return found


def suppress(table: Array, pairs: tuple[Array, Array], share: float) -> Array:
    """`table` in a basis in which pairs of the same meaning differ equally in every direction.

    pairs: the unit vectors of their two sentences, [pairs, dimensions] each. `share` of the mean variance is added
    everywhere: there are few pairs.
    """
    differences = pairs[0] - pairs[1]
    covariance = differences.T @ differences / len(differences)
    even = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    values, components = np.linalg.eigh((1 - share) * covariance + share * even)
    moved: Array = table @ (components * values**-0.5)
    return moved


_known: dict[tuple[str, str], tuple[Array, Array]] = {}


def _components(source: str, fold: str, centred: Array) -> tuple[Array, Array]:
    """Eigenvalues and components, largest first; signs as in the service."""
    if (source, fold) not in _known:
        values, components = np.linalg.eigh(centred.T @ centred / len(centred))
        components = components[:, ::-1]
        largest = np.abs(components).argmax(axis=0)
        components = components * np.sign(components[largest, np.arange(components.shape[1])])
        _known[source, fold] = values[::-1], components
    return _known[source, fold]


def _weights(options: Initial, ids: Array, tokenizer: Any, texts: Sequence[str]) -> Array:
    if options.weighting == "log-id":
        return np.asarray(np.log1p(ids))
    if options.weighting == "zipf":
        # The factor keeps the size of log(1 + id), so that a learning rate means the same.
        return np.asarray(np.log1p(len(ids)) * ids / (ids + options.zipf))
    if options.weighting == "idf":
        counts = np.zeros(len(ids))
        for encoded in tokenizer._tokenizer.encode_batch(list(texts), add_special_tokens=False):
            np.add.at(counts, np.unique(encoded.ids), 1)
        return np.asarray(np.log((len(texts) + 1) / (counts + 1)))
    return np.ones(len(ids))


def _folded(table: Array, tokenizer: Any, how: str) -> tuple[Array, Array]:
    """The table and the ids by which tokens are weighed, the same for all that differ in case or leading space only."""
    groups: dict[str, list[int]] = {}
    for token, number in sorted(_vocabulary(tokenizer).items(), key=lambda item: item[1]):
        word = token.removeprefix("\u0120").lower()
        groups.setdefault(word if word.isalpha() else f"{number} ", []).append(number)
    found, ids = table.copy(), np.arange(len(table), dtype=np.float64)
    for members in groups.values():
        if len(members) > 1:
            spaced = [number for number in members if tokenizer.convert_ids_to_tokens(number).startswith("\u0120")]
            first = min(spaced or members)
            found[members] = table[first] if how == "first" else table[members].mean(axis=0)
            ids[members] = first
    return found, ids


def _vocabulary(tokenizer: Any) -> Mapping[str, int]:
    found: Mapping[str, int] = tokenizer.get_vocab()
    return found


@cache
def _source(source: str, teacher: Path) -> Array:
    table = encoder.token_table(teacher)
    if source == "table":
        return table.astype(np.float64)
    return _of_layer(int(source.removeprefix("layer-")), teacher, len(table))


def _of_layer(layer: int, teacher: Path, tokens: int) -> Array:
    """What the teacher's first layers make of each token alone, after its end-of-text token: [tokens, hidden]."""
    import torch

    model = first_layers(teacher, layer).bfloat16()
    start = int(model.config.bos_token_id or 0)
    rows = []
    with torch.inference_mode():
        for first in range(0, tokens, BATCH):
            numbers = torch.arange(first, min(first + BATCH, tokens))
            given = torch.stack([torch.full_like(numbers, start), numbers], dim=1)
            rows.append(model(given, use_cache=False).last_hidden_state[:, 1].float().numpy())
    found: Array = np.concatenate(rows).astype(np.float64)
    return found


def first_layers(teacher: Path, count: int) -> Any:
    """The teacher's first layers, without its head and its last norm. Saved and loaded, it gets a norm of ones."""
    import torch
    from transformers import AutoConfig

    from services.trainer.models.prompt_eol import lower_layers

    layers = AutoConfig.from_pretrained(teacher, local_files_only=True).num_hidden_layers
    model = lower_layers(teacher, count / layers, torch.float32)
    model.norm = torch.nn.Identity()
    return model
