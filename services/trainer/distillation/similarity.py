"""Similarity distillation: a static student's cosines learn to order pairs of sentences as its teacher's do.

Relational knowledge distillation (Park et al. 2019) with a correlation for its distance. It takes a teacher whose own
cosines mean something: one with an `adapter`. sentence-transformers' trainer would wait for a round's other processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from services.trainer.models.static import Embeddings

WARM_UP = 0.1  # share of the steps in which the rate grows; it falls linearly from there


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how strongly. How the numbers were chosen, without human scores: docs/quality.md."""

    learning_rate: float = 1e-2
    epochs: int = 5
    batch: int = 512
    """Sentences at a time: each is compared with all others of its batch."""
    seed: int = 42


def distill_similarities(
    model: Any, texts: Sequence[str], teacher_embeddings: Embeddings, config: TrainingConfig | None = None
) -> None:
    """Train a static student's token embeddings in place; fewer than three texts teach nothing.

    `teacher_embeddings` of the texts, [texts, hidden], centred (`Adapter.centre`); only directions count.
    """
    config = config or TrainingConfig()
    size = min(config.batch, len(texts))
    if size < 3:
        return
    table = model[0].embedding
    table.sparse = True  # a batch touches some thousand of 50,000 rows
    encodings = model[0].tokenizer.encode_batch(list(texts), add_special_tokens=False)
    targets = functional.normalize(torch.from_numpy(teacher_embeddings), dim=-1)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=config.learning_rate)
    steps = config.epochs * (len(texts) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1.0, WARM_UP * steps), (steps - step) / ((1 - WARM_UP) * steps))
    )
    rows, columns = torch.triu_indices(size, size, offset=1)  # all pairs of two different sentences
    for batch in _batches(len(texts), size, config):
        ids = [encodings[number].ids for number in batch]
        starts = [0, *accumulate(map(len, ids))][:-1]
        vectors = functional.normalize(table(torch.tensor([*chain(*ids)]), torch.tensor(starts)), dim=-1)
        cosines, target = ((some @ some.T)[rows, columns] for some in (vectors, targets[batch]))
        optimizer.zero_grad()
        (1 - correlation(cosines, target)).backward()
        optimizer.step()
        schedule.step()
    table.sparse = False


def _batches(count: int, size: int, config: TrainingConfig) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.epochs):
        order: list[int] = torch.randperm(count, generator=generator).tolist()
        for first in range(0, count - size + 1, size):
            yield order[first : first + size]


def correlation(some: Tensor, others: Tensor) -> Tensor:
    """Pearson's: 1 where the one is a rising line of the other."""
    some, others = some - some.mean(), others - others.mean()
    return (some @ others) / (some.norm() * others.norm()).clamp_min(1e-12)
