"""The presets, `default` and `dino`: what is made of the collected pairs, and the numbers by which a student learns.

Source of `dino`: timoschick/dino, scripts/sts/postprocess_dataset.py and run_training.py; without its leaks (`split`).
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from services.trainer.settings import TrainerSettings

STATIC_EPOCHS, STATIC_MOST_EPOCHS, STATIC_STEPS = 3, 20, 200
TEACHER_EMBEDDINGS = 10_000
"""Sentences that the default teacher embeds for its students: a tenth of a second each on one core, and once only."""
EVALUATIONS, FEWEST_EVALUATIONS = 10, 3
EVALUATED_SHARE = 0.06
"""Pairs evaluated for each one that is trained on: two percent of the time, as encoding takes a third of it."""
CLASSES = {
    "cosine": "CosineSimilarityLoss",
    "cosent": "CoSENTLoss",
    "angle": "AnglELoss",
    "mnrl": "MultipleNegativesRankingLoss",
}
QUERY_LOSS = "CachedMultipleNegativesRankingLoss"
"""For queries, their passages and hard negatives: the size of a batch takes no memory."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides, with the pairs, the base and the seed, what comes out."""

    preset: str
    teacher_embeddings: int
    """At most so many sentences are embedded by the teacher (`prompt_eol`), for the student to learn from."""
    loss: str
    matryoshka: tuple[int, ...]
    epochs: int
    """0 until `for_rows` has set it."""
    max_steps: int | None
    learning_rate: float
    batch_size: int
    gradient_accumulation: int
    warm_up: float = 0.1
    """Share of the steps in which the rate grows; it falls linearly from there."""
    smoothing: float = 0.2
    """0.2 makes the labels 0, 0.5 and 1 to 0.1, 0.5 and 0.9."""
    random_pairs: int = 2
    """Pairs of score 0 that each sentence1 gets beside its own."""
    most_per_label: int | None
    """Pairs kept for one sentence1 and score; None keeps all."""
    evaluate_every: int | None
    """Steps between evaluations; None makes about ten of a round."""
    early_stop: int | None
    seed: int

    @property
    def triplets(self) -> bool:
        """Whether the loss takes (anchor, positive, hard negative) instead of scored pairs."""
        return self.loss in (CLASSES["mnrl"], QUERY_LOSS)

    def for_queries(self) -> "Recipe":
        """The same for queries and their passages: once through, the last step counts."""
        return replace(self, loss=QUERY_LOSS, epochs=1)

    def for_rows(self, rows: int, static: bool) -> "Recipe":
        """With epochs for so many training rows: a static student takes three, or more up to 200 steps."""
        if self.epochs:
            return self
        epochs = math.ceil(STATIC_STEPS * self.batch_size / max(1, rows))
        return replace(self, epochs=min(max(epochs, STATIC_EPOCHS), STATIC_MOST_EPOCHS) if static else 1)

    def steps(self, rows: int, processes: int) -> int:
        """Optimizer steps of a round."""
        batches = math.ceil(rows / (self.batch_size * processes))
        steps = self.epochs * math.ceil(batches / self.gradient_accumulation)
        return max(1, min(steps, self.max_steps or steps))

    def evaluation_steps(self, steps: int, processes: int, eval_pairs: int) -> int:
        """Steps between two evaluations on so many pairs."""
        rows = steps * self.batch_size * self.gradient_accumulation * processes
        affordable = int(EVALUATED_SHARE * rows / max(1, eval_pairs))
        evaluations = min(max(affordable, FEWEST_EVALUATIONS), EVALUATIONS)
        return min(self.evaluate_every or math.ceil(steps / evaluations), steps)

    def describe(self) -> dict[str, Any]:
        """As a version's card tells it."""
        return asdict(self) | {"matryoshka": list(self.matryoshka)}


def recipe_for(
    settings: TrainerSettings, static: bool, dimensions: int, seed: int, learns_teacher: bool = False
) -> Recipe:
    """The preset, with what the settings change of it.

    `learns_teacher`: as `shared.settings.learns_teacher` says.
    """
    dino = settings.preset == "dino"
    requested = [int(part) for part in (settings.matryoshka or "").split(",") if part]
    shorter = sorted({size for size in requested if size < dimensions}, reverse=True)
    embeddings = settings.teacher_embeddings
    if embeddings is None:
        embeddings = TEACHER_EMBEDDINGS if learns_teacher and not dino else 0
    return Recipe(
        preset=settings.preset,
        teacher_embeddings=embeddings if static or learns_teacher else 0,
        loss=CLASSES[settings.loss or "cosine"],
        matryoshka=(dimensions, *shorter) if shorter else (),
        epochs=settings.epochs or (1 if dino else 0),
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate or (1e-3 if static and not dino else 2e-5),
        batch_size=settings.batch_size or 32,
        gradient_accumulation=settings.gradient_accumulation,
        most_per_label=2 if dino else None,
        evaluate_every=100 if dino else None,
        early_stop=settings.early_stop,
        seed=seed,
    )
