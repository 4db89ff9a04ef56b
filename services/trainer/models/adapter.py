"""The default teacher's low-rank adapter (LoRA, Hu et al. 2021), trained on pairs that it wrote (docs/quality.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from services.trainer.models.static import Table, fingerprint

FILE = Path(__file__).with_name("adapter.safetensors")
CENTRE = "centre"


@dataclass(frozen=True)
class Adapter:
    """Two thin matrices for each linear layer, and a mean."""

    layers: Mapping[str, tuple[Tensor, Tensor]]
    """By a linear layer's name: `up` [out, rank] and `down` [rank, in]; their product is added to its weight."""
    centre: Tensor
    """Subtracted from every embedding, [hidden]: training subtracted it too."""


def adapter_of(table: Table) -> Adapter | None:
    """The adapter, if it was trained for the teacher that has this token table."""
    with safe_open(FILE, framework="pt") as file:
        if file.metadata()["teacher"] != fingerprint(table):
            return None
        names = [name.removesuffix(".up") for name in file.keys() if name.endswith(".up")]  # noqa: SIM118 -- no dict
        layers = {name: tuple(file.get_tensor(f"{name}.{half}").float() for half in ("up", "down")) for name in names}
        return Adapter(layers, file.get_tensor(CENTRE))


def merge(model: Any, adapter: Adapter) -> None:
    """Add the adapter to the weights of the teacher's lower layers, which become float32."""
    model.float()
    with torch.no_grad():
        for name, (up, down) in adapter.layers.items():
            weight = model.get_submodule(name).weight
            weight += (up @ down).to(weight.device)
