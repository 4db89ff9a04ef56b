"""Checkpoints that a killed round resumes from, and the best weights so far. They hold pickles: private working files.

A death half-way leaves a folder that transformers would fail to load: so each gets a list of its files, written last.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.distributed
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from services.trainer.training.distributed import broadcast_from_first, is_shared

log = logging.getLogger(__name__)

TIME_SHARE = 0.02  # checkpoints of a large student come less often, to take no more of the time
AGREE_EVERY = 10
FILE_LIST, BEST, BEST_SCORE = "files.json", "best.safetensors", "best.json"


class BestWeights(TrainerCallback):
    """Keeps the weights with the best dev score, through a resume too, and ends a round that no longer gets better."""

    def __init__(self, model: Any, metric: str, early_stop: int | None) -> None:
        self._model, self._metric, self._early_stop = model, metric, early_stop
        self._weights: dict[str, Any] | None = None
        self.score: float | None = None
        self.step = 0
        self._evaluations_since = 0

    def on_evaluate(self, _args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """A dev score came; not finite, it is never the best."""
        value = metrics.get(self._metric)
        is_better = value is not None and value == value and (self.score is None or value > self.score)
        if is_better or (value is not None and value == self.score):  # a later tie wins
            self.score, self.step, weights = value, state.global_step, self._model.state_dict()
            if self._weights is None:
                self._weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
            for name, tensor in weights.items():
                self._weights[name].copy_(tensor)  # into the same memory: new pages would take longer than the copy
        self._evaluations_since = 0 if is_better else self._evaluations_since + 1
        if self._early_stop is not None and self._evaluations_since >= self._early_stop:
            log.info("no better dev score for %d evaluations: the round ends early", self._evaluations_since)
            control.should_training_stop = True

    def save(self, folder: Path) -> None:
        """Put the best weights beside a checkpoint's own."""
        if self._weights is not None:
            # Weights may share memory, which safetensors refuses; clones don't.
            save_file({name: tensor.contiguous() for name, tensor in self._weights.items()}, folder / BEST)
            state = {"score": self.score, "step": self.step, "since": self._evaluations_since}
            (folder / BEST_SCORE).write_text(json.dumps(state))

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint's best."""
        if (checkpoint / BEST).is_file():
            self._weights = load_file(checkpoint / BEST)
            state = json.loads((checkpoint / BEST_SCORE).read_text())
            self.score, self.step, self._evaluations_since = state["score"], state["step"], state["since"]

    def apply(self) -> None:
        """Give the model its best weights; without any evaluation, it keeps its last."""
        if self._weights is not None:
            self._model.load_state_dict(self._weights)


class CheckpointCallback(TrainerCallback):
    """Asks for a checkpoint from time to time, and lists its files when it is written."""

    def __init__(self, best: BestWeights, every_s: float) -> None:
        self._best, self._every_s, self._pause_s = best, every_s, every_s
        self._last = self._asked = time.monotonic()

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Time for a checkpoint? The last step needs none: the version comes next."""
        is_due = time.monotonic() - self._last >= self._pause_s and state.global_step < state.max_steps
        if is_shared():
            # Processes' clocks differ, and a checkpoint is written together: the first one decides.
            is_due = state.global_step % AGREE_EVERY == 0 and broadcast_from_first(is_due)
        if is_due:
            self._asked = time.monotonic()
            control.should_save = True

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """transformers has written its part."""
        if is_shared():
            torch.distributed.barrier()  # each process has put its random state there
        if state.is_world_process_zero:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            self._best.save(folder)
            write_file_list(folder)
        self._last = time.monotonic()
        if self._every_s:
            self._pause_s = max(self._every_s, (self._last - self._asked) / TIME_SHARE)


def write_file_list(folder: Path) -> None:
    """List a checkpoint's files with sizes and SHA-256, durably and last."""
    files = {str(path.relative_to(folder)): _describe(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    temporary = folder / f".{FILE_LIST}"
    temporary.write_text(json.dumps(files))
    for path in [*(folder / name for name in files), temporary]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    temporary.rename(folder / FILE_LIST)


def agreed_newest(folder: Path) -> Path | None:
    """`newest_complete`, as the first process of a group finds it: machines may see a shared folder differently."""
    if not is_shared():
        return newest_complete(folder)
    found: Path | None = broadcast_from_first(newest_complete(folder) if torch.distributed.get_rank() == 0 else None)
    return found


def newest_complete(folder: Path) -> Path | None:
    """The newest checkpoint whose files are as listed, or None; those that are newer and broken are removed."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    for checkpoint in reversed(checkpoints):
        with suppress(OSError, ValueError):
            files = json.loads((checkpoint / FILE_LIST).read_text())
            if all(_describe(checkpoint / name) == described for name, described in files.items()):
                return checkpoint
        log.warning("%s is not whole: an older one is used", checkpoint.name)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def _describe(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]
