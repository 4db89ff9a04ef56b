"""Similarity distillation for a transformer: its cosines order pairs of sentences as its teacher's do.

As `similarity`, and the nearest pairs count twice: there a search decides. It takes a teacher whose own cosines mean
something: one with an `adapter`. Cosines may be mixed with the student's own (`mixture`).
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from services.trainer.distillation.similarity import correlation

WARM_UP, MAX_GRADIENT_NORM, WEIGHT_DECAY = 0.06, 1.0, 0.01
NEAREST, NEAREST_WEIGHT = 0.05, 0.5
"""The share of a batch's pairs whose correlation is added, and its weight beside that of all pairs."""
MAX_TOKENS = 128
"""Tokens of a text that are read in training."""
PARTS = 4
"""A batch is encoded in so many parts by length, to pad less."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how strongly."""

    steps: int
    learning_rate: float = 1e-3
    batch: int = 256
    """Sentences at a time: each is compared with all others of its batch."""
    seed: int = 0


class Sentences(NamedTuple):
    """What is trained on."""

    texts: Sequence[str]
    targets: Tensor
    """Their teacher embeddings [texts, hidden], centred (`Adapter.centre`), or a `mixture`; only directions count."""
    groups: Sequence[Sequence[int]]
    """Numbers of texts that stay in one batch; each text is in one group."""


def mixture(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Vectors whose cosines are `share` of those of `one` and the rest of those of `other`: [texts, any] each."""
    first, second = (functional.normalize(vectors, dim=-1) for vectors in (one, other))
    return torch.hstack([math.sqrt(share) * first, math.sqrt(1 - share) * second])


def distill_similarities(
    model: Any, parameters: Sequence[Any], sentences: Sentences, config: TrainingConfig
) -> Iterator[float]:
    """Train these parameters in place; yields the loss of each step."""
    most = min(MAX_TOKENS, model.max_seq_length or MAX_TOKENS)
    ids = model.tokenizer(list(sentences.texts), truncation=True, max_length=most)["input_ids"]
    targets = functional.normalize(sentences.targets, dim=-1)
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98))
    warm_up = max(1, round(WARM_UP * config.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (config.steps - step) / max(1, config.steps - warm_up))
    )
    rows, columns = torch.triu_indices(config.batch, config.batch, offset=1)
    for batch in islice(_batches(sentences.groups, config), config.steps):
        model.train()
        vectors = functional.normalize(_embed(model, [ids[number] for number in batch]), dim=-1)
        own, target = ((some @ some.T)[rows, columns] for some in (vectors, targets[batch].to(vectors.device)))
        nearest = torch.topk(target, round(NEAREST * len(target))).indices
        loss = 1 - correlation(own, target) + NEAREST_WEIGHT * (1 - correlation(own[nearest], target[nearest]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        model.eval()
        yield float(loss.detach())


def _batches(groups: Sequence[Sequence[int]], config: TrainingConfig) -> Iterator[list[int]]:
    """Numbers of texts without end, group by group; a group may end in the next batch."""
    generator = random.Random(config.seed)
    left: list[int] = []
    while True:
        order = list(groups)
        generator.shuffle(order)
        for group in order:
            left += group
            if len(left) >= config.batch:
                yield left[: config.batch]
                left = left[config.batch :]


def _embed(model: Any, ids: Sequence[list[int]]) -> Tensor:
    """The vectors of texts given as token ids, with gradients: [texts, dimensions]."""
    pad = model.tokenizer.pad_token_id
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    size = -(-len(order) // PARTS)
    parts = [order[first : first + size] for first in range(0, len(order), size)]
    vectors = []
    for part in parts:
        lengths = [len(ids[number]) for number in part]
        longest = max(lengths)
        padded = torch.tensor([ids[number] + [pad] * (longest - len(ids[number])) for number in part])
        mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()  # a text may hold the padding token
        features = {"input_ids": padded.to(model.device), "attention_mask": mask.to(model.device)}
        vectors.append(model(features)["sentence_embedding"])
    places = torch.empty(len(order), dtype=torch.long)
    places[torch.tensor([*chain(*parts)])] = torch.arange(len(order))
    embedded: Tensor = torch.cat(vectors)[places]
    return embedded
