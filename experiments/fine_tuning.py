"""One training of a student in place, with the trainer's own parts."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import pair_sets
from services.trainer.evaluation.sts import Row
from services.trainer.models import encoder
from services.trainer.training import fit, split
from services.trainer.training.recipe import CLASSES, Recipe

NO_CHECKPOINTS_S = 1e9


def make_recipe(loss: str, learning_rate: float, epochs: int, seed: int, **more: Any) -> Recipe:
    """The recipe of an experiment; `more` are further fields."""
    defaults: dict[str, Any] = {"teacher_embeddings": 0, "max_steps": None, "batch_size": 32}
    return Recipe(
        preset="experiment",
        loss=CLASSES[loss],
        matryoshka=(),
        epochs=epochs,
        learning_rate=learning_rate,
        gradient_accumulation=1,
        most_per_label=None,
        evaluate_every=None,
        early_stop=None,
        seed=seed,
        **(defaults | more),
    )


def fine_tune(
    model: Any,
    recipe: Recipe,
    train: Sequence[Row],
    *,
    select: bool,
    before: Callable[[Path], None] = lambda _file: None,
    has_pairs: bool = True,
) -> tuple[list[Row], int]:
    """Split, then train as a round does; the dev side and the number of steps.

    `select` keeps the step that is best on the dev side, otherwise the last one. `before` gets the file of training
    rows first. Without `has_pairs` nothing else is done.
    """
    folder = Path(tempfile.mkdtemp(prefix="pairwright-trial-"))
    try:
        prepared = split.prepare(pair_sets.stored(train), recipe, folder / "rows")
        file = folder / "rows" / split.TRAIN
        before(file)
        if not has_pairs:
            return [], 0
        dev = prepared.eval_pairs if select else []
        inputs = fit.TrainingInputs(file, dev, folder / "checkpoints", NO_CHECKPOINTS_S)
        recipe = recipe.for_rows(prepared.stats.train, encoder.is_static(model))
        return prepared.dev, fit.train(model, recipe, inputs, lambda _: None).steps
    finally:
        shutil.rmtree(folder, ignore_errors=True)
