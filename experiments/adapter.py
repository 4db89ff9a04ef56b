"""Trains the low-rank adapter of the default teacher's PromptEOL embeddings (`services/trainer/models/adapter.py`).

Only the adapter is trained (Hu et al. 2021, "LoRA"), by in-batch negatives on pairs that the teacher wrote: a sentence
is drawn to what was written for label 1, and away from what was written for label 0 and for other sentences.
It runs on a CPU too, which is good for trying the code.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from experiments.configuration import Trial
from services.trainer.evaluation.sts import Row
from services.trainer.models import encoder, prompt_eol
from services.trainer.models.adapter import CENTRE
from services.trainer.models.static import Embeddings, fingerprint
from services.trainer.training import split

RANK = 16
SCALE = 2.0
"""By which the product of an adapter's matrices is multiplied."""
TEMPERATURE = 0.05
WARM_UP, MAX_GRADIENT_NORM = 0.1, 1.0
MAX_TOKENS = 128
"""Tokens of a text that are read, prompt included."""
ENCODE_BATCH = 256

Triplet = tuple[str, str, str]
"""Anchor, positive, hard negative."""


class AdaptedLinear(torch.nn.Module):  # type: ignore[misc]
    """A linear layer that stays as it is, and beside it a product of two thin matrices that is trained."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        device = layer.weight.device
        self.down = torch.nn.Parameter(torch.empty(RANK, layer.in_features, device=device))
        self.up = torch.nn.Parameter(torch.zeros(layer.out_features, RANK, device=device))
        torch.nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output and the adapter's, which is zero before training."""
        low_rank = functional.linear(inputs, self.down.to(inputs.dtype))
        outputs: Tensor = self.layer(inputs) + SCALE * functional.linear(low_rank, self.up.to(inputs.dtype))
        return outputs


class AdapterStudent:
    """The teacher's lower layers without their shipped adapter, and a new one in every linear layer."""

    def __init__(self, teacher: Path, seed: int) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = "auto" if torch.cuda.is_available() else torch.float32
        self._tokenizer = prompt_eol.prompted_tokenizer(teacher)
        # Not `PromptEOLEncoder`: it has the shipped adapter merged into its weights.
        self._model = prompt_eol.lower_layers(teacher, prompt_eol.DEPTH, dtype).to(self._device).requires_grad_(False)
        self._teacher = fingerprint(encoder.table_of(self._model))
        self.centre = np.zeros(self._model.config.hidden_size, np.float32)
        self.centre = self.encode(prompt_eol.words(self._tokenizer)).mean(axis=0)
        torch.manual_seed(seed)
        for module in list(self._model.modules()):
            for name, layer in list(module.named_children()):
                if isinstance(layer, torch.nn.Linear):
                    setattr(module, name, AdaptedLinear(layer))

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    def embed(self, texts: Sequence[str]) -> Tensor:
        """The last token's state, centred, not normalised: [texts, hidden]."""
        batch = self._tokenizer(
            list(texts), return_tensors="pt", padding=True, truncation=True, max_length=MAX_TOKENS
        ).to(self._device)
        states = self._model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).last_hidden_state
        last = batch.attention_mask.sum(dim=1) - 1
        rows = torch.arange(len(texts), device=self._device)
        embeddings: Tensor = states[rows, last].float() - torch.from_numpy(self.centre).to(self._device)
        return embeddings

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """The same for any number of texts, without gradients: float32 [texts, hidden]."""
        by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        embeddings = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for first in range(0, len(texts), ENCODE_BATCH):
                numbers = by_length[first : first + ENCODE_BATCH]
                embeddings[numbers] = self.embed([texts[number] for number in numbers]).cpu().numpy()
        return embeddings

    def save(self, file: Path) -> None:
        """Write the adapter as the trainer reads it: `NAME.down` [rank, in] and `NAME.up` [out, rank] of each layer in
        half precision, whose product is added to the layer's weight, and the centre [hidden]."""
        tensors = {CENTRE: torch.from_numpy(self.centre)}
        for name, module in self._model.named_modules():
            if isinstance(module, AdaptedLinear):
                tensors[f"{name}.down"] = module.down.detach().to(torch.float16).cpu()
                tensors[f"{name}.up"] = (SCALE * module.up.detach()).to(torch.float16).cpu()
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, file, {"teacher": self._teacher})


def train(student: AdapterStudent, pairs: Sequence[Row], trial: Trial) -> list[float]:
    """Train the adapter in place; the loss of each step."""
    batches = [batch for epoch in range(trial.epochs) for batch in _batches(triplets(pairs), trial, epoch)]
    optimizer = torch.optim.AdamW(student.parameters(), lr=trial.learning_rate, weight_decay=0.0)
    warm_up = max(1, round(WARM_UP * len(batches)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (len(batches) - step) / max(1, len(batches) - warm_up))
    )
    losses = []
    for batch in batches:
        loss = _in_batch_negatives(student, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses


def triplets(pairs: Sequence[Row]) -> list[Triplet]:
    """Each sentence1 with what was written for it to mean the same, and to be on another topic."""
    groups: dict[str, tuple[list[str], list[str]]] = {}
    for one, other, score in pairs:
        positives, negatives = groups.setdefault(one, ([], []))
        if score >= split.POSITIVE:
            positives.append(other)
        elif score <= 1 - split.POSITIVE:
            negatives.append(other)
    return [(one, *both) for one, parts in groups.items() for both in zip(*parts, strict=False)]


def _batches(rows: list[Triplet], trial: Trial, epoch: int) -> list[list[Triplet]]:
    """An epoch's batches, all of one size: the rest is left out."""
    random.Random(f"{trial.seed} {epoch}").shuffle(rows)
    ends = range(trial.batch_size, len(rows) + 1, trial.batch_size)
    return [rows[end - trial.batch_size : end] for end in ends]


def _in_batch_negatives(student: AdapterStudent, rows: Sequence[Triplet]) -> Tensor:
    anchors = [anchor for anchor, _, _ in rows]
    vectors = functional.normalize(
        student.embed([*anchors, *(row[1] for row in rows), *(row[2] for row in rows)]), dim=-1
    )
    logits = vectors[: len(rows)] @ vectors[len(rows) :].T / TEMPERATURE
    # What was written for the same sentence in another set is no negative.
    places = torch.tensor([anchors.index(anchor) for anchor in anchors], device=logits.device)
    same = (places[:, None] == places[None, :]).fill_diagonal_(False)
    targets = torch.arange(len(rows), device=logits.device)
    return functional.cross_entropy(logits.masked_fill(same.repeat(1, 2), -torch.inf), targets)
