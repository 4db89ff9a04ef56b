"""A static student learns from its teacher's trained view which sentences are nearer to each other than which.

`distillation` moves words until sentences lie near what the teacher sees in each; a mean of words can't get there. What
a user asks of an embedding is less: that cosines order pairs as the teacher's do. So the cosines of all pairs in a
batch are drawn to a line with the teacher's (relational knowledge distillation, Park et al. 2019, with a correlation
for its distance). It takes a view whose own cosines mean something, one that has learned from pairs (`adapter`).

A plain loop: sentence-transformers' trainer would wait for the other processes inside a distributed round, and one of
them makes a student while the others wait for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from services.trainer.distillation.embedding_cache import Embeddings

WARM_UP = 0.1
"""Share of the steps in which the rate grows; it falls linearly from there."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how strongly. How the numbers were chosen, without human scores: docs/quality.md."""

    learning_rate: float = 1e-2
    epochs: int = 5
    batch: int = 512
    """Sentences at a time: each is compared with all others of its batch."""
    seed: int = 42


DEFAULT = TrainingConfig()


def distill_similarities(model: Any, texts: Sequence[str], seen: Embeddings, lesson: TrainingConfig = DEFAULT) -> None:
    """Train a static student's word vectors in place.

    `seen`: what the teacher sees in each text, [texts, hidden], without what all its views have in common
    (`Adapter.centre`); only directions count. Fewer than three texts have no order, and teach nothing.
    """
    size = min(lesson.batch, len(texts))
    if size < 3:
        return
    words = model[0].embedding
    words.sparse = True  # a batch touches some thousand of 50,000 rows
    encoded = model[0].tokenizer.encode_batch(list(texts), add_special_tokens=False)
    wanted = functional.normalize(torch.from_numpy(seen), dim=-1)
    optimizer = torch.optim.SparseAdam(words.parameters(), lr=lesson.learning_rate)
    steps = lesson.epochs * (len(texts) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1.0, WARM_UP * steps), (steps - step) / ((1 - WARM_UP) * steps))
    )
    for batch in _batches(len(texts), size, lesson):
        mine = functional.normalize(words(*_bags([encoded[number].ids for number in batch])), dim=-1)
        optimizer.zero_grad()
        (1 - _correlation(_cosines(mine), _cosines(wanted[batch]))).backward()
        optimizer.step()
        schedule.step()
    words.sparse = False


def _batches(count: int, size: int, lesson: TrainingConfig) -> Iterator[list[int]]:
    draw = torch.Generator().manual_seed(lesson.seed)
    for _ in range(lesson.epochs):
        order: list[int] = torch.randperm(count, generator=draw).tolist()
        for first in range(0, count - size + 1, size):
            yield order[first : first + size]


def _bags(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """All tokens in a row, and where each text begins, as torch's EmbeddingBag takes them."""
    begins = [0, *accumulate(map(len, texts))][:-1]
    return torch.tensor([token for text in texts for token in text]), torch.tensor(begins)


def _cosines(vectors: Tensor) -> Tensor:
    """Of all pairs of two different unit vectors, [pairs]."""
    rows, columns = torch.triu_indices(len(vectors), len(vectors), offset=1)
    return (vectors @ vectors.T)[rows, columns]


def _correlation(some: Tensor, others: Tensor) -> Tensor:
    """Pearson's: 1 where the one is a rising line of the other."""
    some, others = some - some.mean(), others - others.mean()
    return (some @ others) / (some.norm() * others.norm()).clamp_min(1e-12)
