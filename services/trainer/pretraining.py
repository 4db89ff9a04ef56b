"""What the default student learns of its teacher's pairs when it is made: the recipe's cosine loss, in a plain loop.

sentence-transformers' trainer is for rounds: inside a distributed round it would wait for the other processes, and a
student is made by one of them while they wait for it.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from services.trainer.evaluation import Row

SMOOTHING, RANDOM_PAIRS, WARM_UP = 0.2, 2, 0.1
"""As in a round's recipe (`recipe`)."""


@dataclass(frozen=True)
class Lesson:
    """How long and how strongly. How the numbers were chosen, without human scores: docs/quality.md."""

    learning_rate: float = 1e-2
    epochs: int = 1
    batch: int = 128
    seed: int = 42


def learn_pairs(model: Any, pairs: Sequence[Row], lesson: Lesson = Lesson()) -> None:
    """Train a static student's word vectors in place. `pairs`: sentence1, sentence2, score, grouped by sentence1."""
    words = model[0].embedding
    words.sparse = True  # a batch touches some thousand of 50,000 rows
    rows = _with_random_partners(pairs, random.Random(lesson.seed))
    bags = _Bags(model[0].tokenizer, {text for one, other, _ in rows for text in (one, other)})
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=lesson.learning_rate)
    steps = lesson.epochs * (len(rows) // lesson.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1, WARM_UP * steps), (steps - step) / ((1 - WARM_UP) * steps))
    )
    for batch in _batches(rows, lesson):
        ones, others, scores = zip(*batch, strict=True)
        one, other = (functional.normalize(words(*bags.of(texts)), dim=-1) for texts in (ones, others))
        optimizer.zero_grad()
        functional.mse_loss((one * other).sum(dim=-1), torch.tensor(scores)).backward()
        optimizer.step()
        schedule.step()
    words.sparse = False


def _with_random_partners(pairs: Sequence[Row], draw: random.Random) -> list[Row]:
    """The pairs with smoothed scores, and for each sentence1 some of score 0 that nobody wrote for it."""
    others = [other for _, other, _ in pairs]
    rows = [(one, other, (1 - SMOOTHING) * score + SMOOTHING / 2) for one, other, score in pairs]
    for one, group in groupby(pairs, key=lambda row: row[0]):
        own = {one, *(other for _, other, _ in group)}
        partners = (draw.choice(others) for _ in range(RANDOM_PAIRS))
        rows += [(one, partner, 0.0) for partner in partners if partner not in own]
    return rows


def _batches(rows: list[Row], lesson: Lesson) -> Iterator[list[Row]]:
    for epoch in range(lesson.epochs):
        shuffled = list(rows)
        random.Random(f"{lesson.seed} {epoch}").shuffle(shuffled)
        for first in range(0, len(shuffled) - lesson.batch + 1, lesson.batch):
            yield shuffled[first : first + lesson.batch]


class _Bags:
    """Texts as torch's EmbeddingBag takes them."""

    def __init__(self, tokenizer: Any, texts: set[str]) -> None:
        ordered = sorted(texts)
        encoded = tokenizer.encode_batch(ordered, add_special_tokens=False)
        self._tokens = {text: one.ids for text, one in zip(ordered, encoded, strict=True)}

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """All tokens in a row, and where each text begins."""
        ids = [self._tokens[text] for text in texts]
        begins = [0, *accumulate(map(len, ids))][:-1]
        return torch.tensor([token for one in ids for token in one]), torch.tensor(begins)
