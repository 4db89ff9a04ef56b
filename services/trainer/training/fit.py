"""Fine-tuning with sentence-transformers' own trainer."""

import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from transformers import PrinterCallback, TrainerCallback

from services.trainer.evaluation.sts import Row
from services.trainer.models.encoder import ENCODE_BATCH, is_static
from services.trainer.progress import Progress
from services.trainer.training.checkpoints import BestWeights, CheckpointCallback, agreed_newest
from services.trainer.training.distributed import is_shared
from services.trainer.training.recipe import Recipe

log = logging.getLogger(__name__)

ReportProgress = Callable[[Progress], None]

DEV_METRIC = "eval_dev_spearman_cosine"
POINTS = 300  # about so many losses are kept of a round, at most


@dataclass(frozen=True)
class TrainingInputs:
    """What a round trains with, beside the model."""

    train: Path
    """An Arrow file: sentence1, sentence2, score, or anchor, positive, negative."""
    eval_pairs: list[Row]
    """The pairs that choose the best step; [] keeps the last."""
    folder: Path
    """Takes checkpoints."""
    checkpoint_s: float


@dataclass
class Outcome:
    """What training was like."""

    seconds: float
    steps: int
    rows: int
    """Rows that this run trained on, the same one again in each epoch; after a resume, only those since."""
    peak_mib: int
    """The most memory of its own, without the pages of files that it maps."""
    resumed_at: int | None
    best_step: int | None
    history: list[dict[str, float]]
    """`step` with `loss`, or with `dev`: Spearman x 100 on the evaluation pairs."""


def train(model: Any, recipe: Recipe, inputs: TrainingInputs, report_progress: ReportProgress) -> Outcome:
    """Fine-tune `model` in place, from the newest whole checkpoint if there is one; the best step's weights remain."""
    disable_progress_bars()
    # It warns when two checkpoints are written within a second, and then sorts them rightly all the same.
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    static = is_static(model)
    if static:
        # A batch touches some hundred of 50,000 rows: dense gradients and Adam over all of them take minutes an epoch.
        model[0].embedding.sparse = True
    data = Dataset.from_file(str(inputs.train))
    best, progress = BestWeights(model, DEV_METRIC, recipe.early_stop), _ProgressCallback(report_progress)
    trainer = _Trainer(
        model=model,
        args=_arguments(recipe, inputs, len(data), static),
        train_dataset=data,
        loss=_loss(recipe, model),
        evaluator=_Evaluator(inputs.eval_pairs) if inputs.eval_pairs else None,
        callbacks=[best, CheckpointCallback(best, inputs.checkpoint_s), progress],
        optimizers=(torch.optim.SparseAdam(model.parameters(), lr=recipe.learning_rate) if static else None, None),
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint, resumed_at = agreed_newest(inputs.folder), None
    if checkpoint is not None:
        resumed_at = int(checkpoint.name.removeprefix("checkpoint-"))
        log.info("resuming at step %d", resumed_at)
        best.restore(checkpoint)
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = round(time.monotonic() - began, 3)
    best.apply()
    model.eval()
    if static:
        model[0].embedding.sparse = False
    steps = trainer.state.global_step
    rows = (steps - (resumed_at or 0)) * recipe.batch_size * recipe.gradient_accumulation * trainer.args.world_size
    return Outcome(
        seconds=seconds,
        steps=steps,
        rows=min(rows, len(data) * recipe.epochs),
        peak_mib=progress.peak_mib,
        resumed_at=resumed_at,
        best_step=best.step if best.score is not None else None,
        history=list(_history(trainer.state.log_history)),
    )


def _arguments(recipe: Recipe, inputs: TrainingInputs, rows: int, static: bool) -> Any:
    gpu = torch.cuda.is_available()
    processes = torch.distributed.get_world_size() if is_shared() else 1
    steps = recipe.steps(rows, processes)
    return SentenceTransformerTrainingArguments(
        output_dir=str(inputs.folder),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        # In-batch negatives must not be the positive itself.
        batch_sampler=BatchSamplers.NO_DUPLICATES if recipe.triplets else _Shuffled,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warm_up,
        seed=recipe.seed,
        data_seed=recipe.seed,
        max_grad_norm=0.0 if static else 1.0,  # sparse gradients can't be clipped
        bf16=gpu and not static and torch.cuda.is_bf16_supported(),
        use_cpu=not gpu,
        eval_strategy="steps" if inputs.eval_pairs else "no",
        eval_steps=recipe.evaluation_steps(steps, processes, len(inputs.eval_pairs)) if inputs.eval_pairs else None,
        eval_delay=math.ceil(recipe.warm_up * steps) + 1,  # the first step's rate is 0: it changes nothing
        save_strategy="no",  # `CheckpointCallback` asks for checkpoints, by the clock
        save_total_limit=2,
        logging_steps=max(10, math.ceil(steps / POINTS)),
        dataloader_pin_memory=gpu,
        report_to="none",
        disable_tqdm=True,
    )


def _loss(recipe: Recipe, model: Any) -> Any:
    """The recipe's loss on `model`, inside Matryoshka's if it asks for shorter vectors too.

    In a batch's loss the other processes' rows are negatives too: a batch is as hard as on one process.
    """
    gathers = {"gather_across_devices": True} if recipe.triplets and is_shared() else {}
    loss = getattr(losses, recipe.loss)(model, **gathers)
    if recipe.matryoshka:
        return losses.MatryoshkaLoss(model, loss, matryoshka_dims=list(recipe.matryoshka))
    return loss


def _history(logged: list[dict[str, float]]) -> Iterator[dict[str, float]]:
    for entry in logged:
        if "loss" in entry and math.isfinite(entry["loss"]):
            yield {"step": entry["step"], "loss": entry["loss"]}
        if DEV_METRIC in entry and math.isfinite(entry[DEV_METRIC]):
            yield {"step": entry["step"], "dev": round(100 * entry[DEV_METRIC], 2)}


class _Evaluator(EmbeddingSimilarityEvaluator):
    """Encodes each sentence once: about four rows share a sentence1."""

    def __init__(self, rows: list[Row]) -> None:
        columns = map(list, zip(*rows, strict=True))
        super().__init__(*columns, batch_size=ENCODE_BATCH, main_similarity="cosine", name="dev", write_csv=False)

    def embed_inputs(self, model: Any, sentences: list[str], **more: Any) -> Any:
        """The vectors of `sentences`, [sentences, dimensions]."""
        place = {text: index for index, text in enumerate(dict.fromkeys(sentences))}
        return super().embed_inputs(model, list(place), **more)[[place[text] for text in sentences]]


class _Shuffled(DefaultBatchSampler):
    """Batches in a new random order each epoch, kept in a tensor: torch's own sampler makes a list of all numbers."""

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.sampler), generator=generator)
        for first in range(0, len(order), self.batch_size):
            batch = order[first : first + self.batch_size].tolist()
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch


class _Trainer(SentenceTransformerTrainer):
    """sentence-transformers' trainer without what would be of no use or fail."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """No model card: it would hold sentences of the dataset. Ours is written at publication."""

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> None:
        """No norm of gradients in the log: torch takes none of sparse ones. A private hook of transformers 5."""


class _ProgressCallback(TrainerCallback):
    """Turns the trainer's events into `Progress`, and has the last step evaluated."""

    def __init__(self, report_progress: ReportProgress) -> None:
        self._report_progress, self._began, self._first = report_progress, 0.0, 0
        self._loss: float | None = None
        self._dev: float | None = None
        self.peak_mib = _own_mib()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Start the clock."""
        self._began, self._first = time.monotonic(), state.global_step
        self._report(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A batch is done."""
        if args.eval_strategy != "no" and state.global_step >= state.max_steps:
            control.should_evaluate = True
        self._report(state)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        """The mean loss of the last steps came, or an evaluation."""
        self.peak_mib = max(self.peak_mib, _own_mib())
        self._loss = _finite(logs.get("loss"), self._loss)
        self._dev = _finite(logs.get(DEV_METRIC), self._dev, 100)
        fresh = [name for name, logged in (("loss", "loss"), ("dev", DEV_METRIC)) if _is_finite(logs.get(logged))]
        if fresh:
            self._report(state, fresh)

    def _report(self, state: Any, fresh: Sequence[str] = ()) -> None:
        done, steps = state.global_step, state.max_steps
        spent = time.monotonic() - self._began
        left = round(spent / (done - self._first) * (steps - done), 1) if done > self._first else None
        numbers = {"step": done, "steps": steps, "loss": self._loss, "dev": self._dev, "seconds_left": left}
        self._report_progress(Progress.model_validate(numbers | {"fresh": fresh}))


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _finite(value: float | None, before: float | None, factor: float = 1) -> float | None:
    return round(value * factor, 4) if value is not None and math.isfinite(value) else before


def _own_mib() -> int:
    """Memory of this process, without the pages of files that it maps; elsewhere than on Linux, those count too."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1024)
