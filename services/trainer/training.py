"""Fine-tuning with sentence-transformers' own trainer: the second half of the door to torch."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from transformers import PrinterCallback, TrainerCallback

from services.trainer.encoder import ENCODE_BATCH, is_static
from services.trainer.progress import Progress
from services.trainer.recipe import Rows
from services.trainer.settings import TrainerSettings

WARM_UP_SHARE = 0.1
STATIC_EPOCHS, STATIC_MOST_EPOCHS, STATIC_STEPS = 3, 20, 600
DEV_METRIC = "eval_dev_spearman_cosine"


@dataclass(frozen=True)
class Recipe:
    """The numbers that decide how a student learns."""

    loss: str
    epochs: int
    learning_rate: float
    batch_size: int
    seed: int


def recipe_for(model: Any, settings: TrainerSettings, rows: int, seed: int) -> Recipe:
    """The paper's numbers for transformers; for word vectors, rates that move rows which few sentences touch."""
    static, batch_size = is_static(model), settings.batch_size or 32
    return Recipe(
        loss="CosineSimilarityLoss",
        epochs=settings.epochs or (_static_epochs(rows, batch_size) if static else 1),
        learning_rate=settings.learning_rate or (1e-3 if static else 2e-5),
        batch_size=batch_size,
        seed=seed,
    )


def _static_epochs(rows: int, batch_size: int) -> int:
    """Three, and more of them for few rows: a step moves a word vector by at most the learning rate, so a hundred steps
    leave it where it was (docs/benchmarks.md, recipe). The best epoch on the dev side is kept in any case."""
    wanted = math.ceil(STATIC_STEPS * batch_size / max(1, rows))
    return min(max(wanted, STATIC_EPOCHS), STATIC_MOST_EPOCHS)


def train(model: Any, rows: Rows, recipe: Recipe, folder: Path, say: Callable[[Progress], None]) -> None:
    """Fine-tune `model` in place; with a dev side that ranks, the epoch that is best on it remains.

    `folder` takes checkpoints, which hold pickles: private working files, never part of a version.
    """
    disable_progress_bars()
    # It warns when two checkpoints are written within a second, and then sorts them rightly all the same.
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    data = Dataset.from_dict(
        {
            "sentence1": [pair.sentence1 for pair in rows.train],
            "sentence2": [pair.sentence2 for pair in rows.train],
            "score": [pair.score for pair in rows.train],
        }
    )
    static, ranked = is_static(model), rows.dev_fault is None
    if static:
        # A batch touches some hundred of 50,000 rows: dense gradients and Adam over all of them take minutes an epoch.
        model[0].embedding.sparse = True
    trainer = (_SparseTrainer if static else _Trainer)(
        model=model,
        args=_arguments(recipe, folder, ranked, static),
        train_dataset=data,
        loss=CosineSimilarityLoss(model),
        evaluator=_evaluator(rows) if ranked else None,
        callbacks=[_Telling(say)],
        optimizers=(torch.optim.SparseAdam(model.parameters(), lr=recipe.learning_rate) if static else None, None),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()


def _arguments(recipe: Recipe, folder: Path, ranked: bool, static: bool) -> Any:
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=WARM_UP_SHARE,
        seed=recipe.seed,
        data_seed=recipe.seed,
        max_grad_norm=0.0 if static else 1.0,  # sparse gradients can't be clipped
        eval_strategy="epoch" if ranked else "no",
        save_strategy="epoch" if ranked else "no",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=ranked,
        metric_for_best_model=DEV_METRIC if ranked else None,
        greater_is_better=True if ranked else None,
        logging_steps=10,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )


def _evaluator(rows: Rows) -> Any:
    return EmbeddingSimilarityEvaluator(
        [pair.sentence1 for pair in rows.dev],
        [pair.sentence2 for pair in rows.dev],
        [pair.score for pair in rows.dev],
        batch_size=ENCODE_BATCH,
        main_similarity="cosine",
        name="dev",
        write_csv=False,
    )


class _Trainer(SentenceTransformerTrainer):
    """sentence-transformers' trainer without its model card: it would put sentences of the dataset on it."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Leave it out; ours is written at publication."""


class _SparseTrainer(_Trainer):
    """For word vectors: torch takes no norm of sparse gradients, and the trainer asks for one even to log it."""

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> None:
        """None is not logged. A private hook of transformers 5: the tests train a static student through it."""


class _Telling(TrainerCallback):
    """Turns the trainer's events into `Progress`."""

    def __init__(self, say: Callable[[Progress], None]) -> None:
        self._say = say
        self._began = 0.0
        self._loss: float | None = None
        self._dev: float | None = None

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Start the clock."""
        self._began = time.monotonic()
        self._tell(state)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """A batch is done."""
        self._tell(state)

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        """The mean loss of the last steps came, or an evaluation."""
        self._loss = _finite(logs.get("loss"), self._loss)
        self._dev = _finite(logs.get(DEV_METRIC), self._dev, 100)

    def _tell(self, state: Any) -> None:
        done, steps = state.global_step, state.max_steps
        spent = time.monotonic() - self._began
        left = round(spent / done * (steps - done), 1) if done else None
        self._say(Progress(step=done, steps=steps, loss=self._loss, dev=self._dev, seconds_left=left))


def _finite(value: float | None, before: float | None, factor: float = 1) -> float | None:
    return round(value * factor, 4) if value is not None and math.isfinite(value) else before


def describe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a version's card tells it."""
    return {**asdict(recipe), "warm_up": WARM_UP_SHARE}
