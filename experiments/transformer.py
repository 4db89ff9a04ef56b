"""A transformer student: the teacher's one-word view (`services.trainer.one_word`), trained through a low-rank adapter.

Only the adapter learns (Hu et al. 2021, "LoRA"), so that what came of a training is some megabytes, and many trainings
can share one card. It runs on a CPU too, which is good for trying the code.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.trainer.models import encoder, prompt_eol
from services.trainer.models.static import Embeddings, fingerprint

TEMPLATES = ((prompt_eol.PREFIX, prompt_eol.SUFFIX), ('The sentence "', '" can be summed up in one word: "'))
"""The view's prompt, and another that asks for the same: two views of one sentence (Jiang et al. 2022, PromptBERT)."""
LONGEST = 64
"""Tokens of a sentence that are read."""
TEMPERATURE, SCALE = 0.05, 20.0
"""Of the in-batch softmax; of CoSENT's differences."""
SMOOTHED = {1.0: 0.9, 0.5: 0.5, 0.0: 0.1}
RANDOM_PAIRS = 2
STRENGTH = 2.0
"""By which the product of an adapter's matrices is multiplied."""
WARM_UP, CLIP, WEIGHT_DECAY = 0.1, 1.0, 0.0
CHUNK, AT_ONCE = 192, 512


@dataclass(frozen=True)
class Lesson:
    """How a student is trained. Pairs beside: what a trial trains on is not its business."""

    losses: tuple[str, ...]
    """Of `mnrl` (label 1 is the positive, label 0 a hard negative), `templates` (a sentence's two views are each
    other's positives), `cosine` and `cosent` (both on scores); several are added up."""
    learning_rate: float = 2e-4
    epochs: int = 1
    batch: int = 128
    rank: int = 16
    seed: int = 1


@dataclass(frozen=True)
class Unit:
    """What was written for one first sentence: (sentence2, score) for each label that has one."""

    sentence1: str
    partners: tuple[tuple[str, float], ...]

    def of(self, label: float) -> str | None:
        """The sentence written for the label of this score, if there is one: a soft score counts as the nearest."""
        return next((text for text, score in self.partners if abs(score - label) < 0.25), None)


class _Adapted(torch.nn.Module):  # type: ignore[misc]
    """A linear layer that stays as it is, and a product of two thin matrices beside it that learns."""

    def __init__(self, layer: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        device = layer.weight.device
        self.down = torch.nn.Parameter(torch.empty(rank, layer.in_features, device=device))
        self.up = torch.nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
        torch.nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, given: Tensor) -> Tensor:
        """What the layer gives, and what was learned."""
        moved = functional.linear(functional.linear(given, self.down.to(given.dtype)), self.up.to(given.dtype))
        found: Tensor = self.layer(given) + STRENGTH * moved
        return found


class Student:
    """The teacher's lower layers with an adapter in every linear layer."""

    def __init__(self, teacher: Path, centre: Tensor | None = None) -> None:
        """`centre`: the mean view of words, [hidden]; computed if left out."""
        self._plain = encoder.tokenizer(teacher)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = "auto" if torch.cuda.is_available() else torch.float32
        # Not `OneWordTeacher`: it has learned already, from what came of this.
        self._model = prompt_eol.lower_layers(teacher, prompt_eol.DEPTH, dtype).to(self.device).requires_grad_(False)
        self.fingerprint = fingerprint(encoder.table_of(self._model))
        words = prompt_eol.words(self._plain)
        self._ends = [
            tuple(self._plain(half, add_special_tokens=False)["input_ids"] for half in halves) for halves in TEMPLATES
        ]
        self._ids: dict[str, list[int]] = {}
        self.centre = torch.zeros(self._model.config.hidden_size, device=self.device)
        centre = torch.from_numpy(self.encode(words).mean(axis=0)) if centre is None else centre
        self.centre = centre.to(self.device)
        self._layers: list[tuple[torch.nn.Module, str, torch.nn.Linear]] = [
            (parent, name, layer)
            for parent in self._model.modules()
            for name, layer in parent.named_children()
            if isinstance(layer, torch.nn.Linear)
        ]

    def begin(self, rank: int, seed: int) -> list[torch.nn.Parameter]:
        """Put a new adapter in, which changes nothing yet: its parameters."""
        torch.manual_seed(seed)
        adapted = [_Adapted(layer, rank) for _, _, layer in self._layers]
        for (parent, name, _), one in zip(self._layers, adapted, strict=True):
            setattr(parent, name, one)
        return [parameter for one in adapted for parameter in (one.down, one.up)]

    def adapter(self) -> dict[str, Tensor]:
        """What was learned, by the layers' names: `NAME.down` [rank, in] and `NAME.up` [out, rank], in half precision.

        Their product is what is added to a layer's weight.
        """
        return {
            f"{name}.{part}": (factor * tensor.detach()).to(torch.float16).cpu()
            for name, module in self._model.named_modules()
            if isinstance(module, _Adapted)
            for part, factor, tensor in (("down", 1.0, module.down), ("up", STRENGTH, module.up))
        }

    def put(self, adapter: Mapping[str, Tensor]) -> None:
        """Put a learned adapter in."""
        self.begin(len(next(tensor for name, tensor in adapter.items() if name.endswith(".down"))), seed=0)
        modules = dict(self._model.named_modules())
        for name, module in modules.items():
            if isinstance(module, _Adapted):
                module.down.data.copy_(adapter[f"{name}.down"])
                module.up.data.copy_(adapter[f"{name}.up"] / STRENGTH)

    def embed(self, texts: Sequence[str], template: int = 0) -> Tensor:
        """[texts, hidden], centred, not normalised. Texts of a length go together: less padding."""
        before, after = self._ends[template]
        rows = [[*before, *self._tokens(text), *after] for text in texts]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        found = torch.cat(
            [
                self._states([rows[place] for place in order[first : first + CHUNK]])
                for first in range(0, len(order), CHUNK)
            ]
        )
        back = torch.empty(len(order), dtype=torch.long)
        back[order] = torch.arange(len(order))
        return found[back.to(self.device)] - self.centre

    def _states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The last token's state in each row: [rows, hidden]."""
        width = max(map(len, rows))
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        fed = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.device)
        mask = torch.arange(width, device=self.device)[None] < lengths[:, None]
        states = self._model(fed, attention_mask=mask.long(), use_cache=False).last_hidden_state
        found: Tensor = states[torch.arange(len(rows), device=self.device), lengths - 1].float()
        return found

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """The same for any number of texts, without gradients: float32 [texts, hidden]."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for first in range(0, len(order), AT_ONCE):
                places = order[first : first + AT_ONCE]
                found[places] = self.embed([texts[place] for place in places]).cpu().numpy()
        return found

    def _tokens(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self._plain(text, add_special_tokens=False)["input_ids"][:LONGEST]
        return self._ids[text]


def train(
    student: Student,
    units: Sequence[Unit],
    sentences: Sequence[str],
    lesson: Lesson,
    in_time: Callable[[], bool] = lambda: True,
) -> dict[str, float]:
    """Train an adapter from its beginning; it remains in the student. `sentences`: for the loss `templates`.

    Stops early when `in_time` says so. Returns steps and the last losses' mean.
    """
    parameters = student.begin(lesson.rank, lesson.seed)
    optimizer = torch.optim.AdamW(parameters, lr=lesson.learning_rate, weight_decay=WEIGHT_DECAY)
    batches = [batch for epoch in range(lesson.epochs) for batch in _batches(units, sentences, lesson, epoch)]
    warm_up = max(1, round(WARM_UP * len(batches)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, (len(batches) - step) / max(1, len(batches) - warm_up)),
    )
    losses = []
    for batch in batches:
        if not in_time():
            break
        # One backward pass a loss: their graphs need not be in memory together.
        total = 0.0
        for name, rows in batch.items():
            loss = LOSSES[name](student, rows)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
    recent = losses[-20:]
    return {"steps": len(losses), "loss": round(sum(recent) / max(1, len(recent)), 4)}


Batch = Mapping[str, Sequence[Any]]


def _batches(units: Sequence[Unit], sentences: Sequence[str], lesson: Lesson, epoch: int) -> Iterator[Batch]:
    """An epoch's batches: rows by the loss that they are for. The rarest kind of rows ends it."""
    draw = random.Random(f"{lesson.seed} {epoch}")
    rows = {name: _rows(name, units, sentences, draw) for name in lesson.losses}
    for some in rows.values():
        draw.shuffle(some)
    for step in range(min(len(some) for some in rows.values()) // lesson.batch):
        yield {name: some[step * lesson.batch : (step + 1) * lesson.batch] for name, some in rows.items()}


def _rows(name: str, units: Sequence[Unit], sentences: Sequence[str], draw: random.Random) -> list[Any]:
    if name == "templates":
        return list(sentences)
    if name == "mnrl":
        triples = [(unit.sentence1, unit.of(1.0), unit.of(0.0)) for unit in units]
        return [triple for triple in triples if None not in triple]
    scored = [(unit.sentence1, text, score) for unit in units for text, score in unit.partners]
    others = [text for _, text, _ in scored]
    apart = [(unit.sentence1, draw.choice(others), 0.0) for unit in units for _ in range(RANDOM_PAIRS)]
    if name == "cosine":
        # As in the service: only written pairs are smoothed.
        return [(one, other, SMOOTHED.get(score, 0.1 + 0.8 * score)) for one, other, score in scored] + apart
    return scored + apart


def _mnrl(student: Student, rows: Sequence[tuple[str, str, str]]) -> Tensor:
    texts = [row[part] for part in range(3) for row in rows]
    vectors = functional.normalize(student.embed(texts), dim=-1)
    found = vectors[: len(rows)] @ vectors[len(rows) :].T / TEMPERATURE
    # What was written for the same first sentence, in another set, is no negative.
    places = torch.tensor([texts.index(row[0]) for row in rows], device=found.device)
    same = (places[:, None] == places[None, :]).fill_diagonal_(False)
    return _diagonal_is_right(found.masked_fill(same.repeat(1, 2), -torch.inf))


def _templates(student: Student, rows: Sequence[str]) -> Tensor:
    anchors, candidates = (functional.normalize(student.embed(rows, number), dim=-1) for number in (0, 1))
    return _diagonal_is_right(anchors @ candidates.T / TEMPERATURE)


def _diagonal_is_right(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _cosines(student: Student, rows: Sequence[tuple[str, str, float]]) -> tuple[Tensor, Tensor]:
    vectors = functional.normalize(student.embed([row[0] for row in rows] + [row[1] for row in rows]), dim=-1)
    scores = torch.tensor([row[2] for row in rows], device=vectors.device)
    return (vectors[: len(rows)] * vectors[len(rows) :]).sum(dim=-1), scores


def _cosine(student: Student, rows: Sequence[tuple[str, str, float]]) -> Tensor:
    found, wanted = _cosines(student, rows)
    return functional.mse_loss(found, wanted)


def _cosent(student: Student, rows: Sequence[tuple[str, str, float]]) -> Tensor:
    """Su 2022: wherever one pair has a lower score than another, its cosine should be lower too."""
    found, wanted = _cosines(student, rows)
    differences = SCALE * (found[:, None] - found[None, :])
    wrong = differences[wanted[:, None] < wanted[None, :]]
    return torch.logsumexp(torch.cat([wrong.new_zeros(1), wrong]), dim=0)


LOSSES: Mapping[str, Callable[[Student, Sequence[Any]], Tensor]] = {
    "mnrl": _mnrl,
    "templates": _templates,
    "cosine": _cosine,
    "cosent": _cosent,
}
