"""What the default teacher's view has learned of the pairs that it wrote: two thin matrices beside each linear layer.

A low-rank adapter (Hu et al. 2021, "LoRA") for the lower layers that `one_word` runs. It came of `experiments.large`:
a sentence is drawn to what the teacher wrote to mean the same, and away from what it wrote on another topic. It lies in
`teacher_corpus/`, beside what else that teacher gives its students, and means nothing to another teacher.
"""

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
    """What was learned."""

    layers: Mapping[str, tuple[Tensor, Tensor]]
    """By a linear layer's name: `up` [out, rank] and `down` [rank, in]; their product is added to its weight."""
    centre: Tensor
    """What is taken away from every view, [hidden]: the views were trained without it."""


def adapter_of(table: Table) -> Adapter | None:
    """The adapter, if the teacher that has this token table learned it."""
    with safe_open(FILE, framework="pt") as kept:
        if kept.metadata()["teacher"] != fingerprint(table):
            return None
        names = [name.removesuffix(".up") for name in kept.keys() if name.endswith(".up")]  # noqa: SIM118 -- no dict
        parts = {name: (kept.get_tensor(f"{name}.up"), kept.get_tensor(f"{name}.down")) for name in names}
        return Adapter(
            {name: (up.float(), down.float()) for name, (up, down) in parts.items()}, kept.get_tensor(CENTRE)
        )


def merge(model: Any, adapter: Adapter) -> None:
    """Add what was learned to the weights of the teacher's lower layers, which become float32."""
    model.float()
    with torch.no_grad():
        for name, (up, down) in adapter.layers.items():
            weight = model.get_submodule(name).weight
            weight += (up @ down).to(weight.device)
