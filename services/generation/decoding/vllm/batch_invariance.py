"""Linear layers whose rows don't depend on how many other rows there are: the same bits in any batch.

A CPU's matrix kernels are chosen by the number of rows, and some add up in another order: in bfloat16 a lane alone and
in a crowd differ by roundings, which self-debiasing amplifies until a token differs (measured: of 16 sentences x 3
labels, 6 to 11 came out otherwise). Here rows go through in tiles of a few fixed heights, which were tested on each
layer to agree to the bit. The attention kernel is invariant once its keys are not split between threads
(VLLM_CPU_ATTN_SPLIT_KV=0); norms and activations work row by row. On a GPU this is vLLM's own (VLLM_BATCH_INVARIANT=1).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

Linear = Callable[[Tensor, Any, Any], Tensor]
"""What vLLM's CPU layers call: (rows [n, width], weight, bias) -> [n, outputs]."""

TILE = 64
"""The smallest tile: smaller batches are padded to it. A full batch of the default size has as many rows."""
LARGER_TILES = (192, 128)


def make_batch_invariant(model: torch.nn.Module) -> int:
    """Feed every CPU linear layer of a loaded vLLM model with fixed tiles; their number. RuntimeError for none."""
    tiles_by_shape: dict[tuple[Any, ...], tuple[int, ...]] = {}
    layers = [layer for layer in model.modules() if hasattr(layer, "cpu_linear")]
    if not layers:
        raise RuntimeError("no CPU linear layer was found in the model: batch invariance can't be had here")
    for layer in layers:
        names = ("input_size_per_partition", "input_size", "embedding_dim")  # the output layer has the last one
        linear, width = layer.cpu_linear, next(int(getattr(layer, name)) for name in names if hasattr(layer, name))
        # A kernel is chosen by shapes: layers of one shape agree on the same tiles.
        shape = (width, tuple(getattr(layer, "output_partition_sizes", ())), type(layer).__name__)
        if shape not in tiles_by_shape:
            dtype = next(model.parameters()).dtype
            tiles_by_shape[shape] = tiles_that_agree(partial(_on_rows, linear, layer), width, dtype)
        layer.cpu_linear = tiled(linear, tiles_by_shape[shape])
    return len(layers)


def tiles_that_agree(linear: Callable[[Tensor], Tensor], width: int, dtype: torch.dtype) -> tuple[int, ...]:
    """Heights of tiles, largest first, for which random rows give the same bits as in tiles of `TILE` rows."""
    generator = torch.Generator().manual_seed(0)
    agreeing = []
    for tile in LARGER_TILES:
        trials = [torch.randn(tile, width, generator=generator).to(dtype) for _ in range(2)]
        small = [torch.cat([linear(rows[i : i + TILE]) for i in range(0, tile, TILE)]) for rows in trials]
        if all(torch.equal(linear(rows), reference) for rows, reference in zip(trials, small, strict=True)):
            agreeing.append(tile)
    return (*agreeing, TILE)


def tiled(linear: Linear, tiles: Sequence[int]) -> Linear:
    """`linear` fed with tiles of the given heights only (largest first); the last one is padded with zero rows."""
    smallest = tiles[-1]

    def call(rows: Tensor, weight: Any, bias: Any) -> Tensor:
        count = rows.shape[0]
        if count in tiles:
            return linear(rows, weight, bias)
        if count < smallest:
            return linear(_padded(rows, smallest), weight, bias)[:count]
        outputs, done = [], 0
        for tile in tiles:
            while count - done >= tile:
                outputs.append(linear(rows[done : done + tile], weight, bias))
                done += tile
        if done < count:
            outputs.append(linear(_padded(rows[done:], smallest), weight, bias)[: count - done])
        return torch.cat(outputs)

    return call


def _padded(rows: Tensor, height: int) -> Tensor:
    padded = rows.new_zeros(height, rows.shape[1])
    padded[: rows.shape[0]] = rows
    return padded


def _on_rows(linear: Linear, layer: torch.nn.Module, rows: Tensor) -> Tensor:
    return linear(rows, layer.weight, None)
