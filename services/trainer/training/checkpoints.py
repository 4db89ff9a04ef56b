"""Checkpoints that a killed round resumes from, and the best weights so far.

transformers writes the checkpoint; a death half-way leaves a folder that it would fail to load. So each gets a seal,
written last, that names all its files, and only a sealed one is resumed from. It holds pickles: private working files.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch.distributed
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

log = logging.getLogger(__name__)

MOST_OF_THE_TIME = 0.02
"""Checkpoints of a large student come less often, to take no more than this share of the time."""
AGREE_EVERY = 10
SEAL, BEST, BEST_SCORE = "sealed.json", "best.safetensors", "best.json"


class BestWeights(TrainerCallback):
    """Keeps the weights with the best dev score, through a resume too, and ends a round that no longer gets better."""

    def __init__(self, model: Any, metric: str, early_stop: int | None) -> None:
        self._model, self._metric, self._early_stop = model, metric, early_stop
        self._weights: dict[str, Any] | None = None
        self.score: float | None = None
        self.step = 0
        self._since = 0

    def on_evaluate(self, _args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """A dev score came; not finite, it is never the best."""
        value = metrics.get(self._metric)
        if value is not None and value == value and (self.score is None or value >= self.score):  # a later tie wins
            better = self.score is None or value > self.score
            self.score, self.step, self._since = value, state.global_step, 0 if better else self._since + 1
            self._remember()
        else:
            self._since += 1
        if self._early_stop is not None and self._since >= self._early_stop:
            log.info("no better dev score for %d evaluations: the round ends early", self._since)
            control.should_training_stop = True

    def _remember(self) -> None:
        weights = self._model.state_dict()
        if self._weights is None:
            self._weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        for name, tensor in weights.items():
            self._weights[name].copy_(tensor)  # into the same memory: new pages would take longer than the copy

    def save(self, folder: Path) -> None:
        """Put the best weights beside a checkpoint's own."""
        if self._weights is not None:
            # Weights may share memory, which safetensors refuses; clones don't.
            save_file({name: tensor.contiguous() for name, tensor in self._weights.items()}, folder / BEST)
            note = {"score": self.score, "step": self.step, "since": self._since}
            (folder / BEST_SCORE).write_text(json.dumps(note))

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint's best."""
        if (checkpoint / BEST).is_file():
            self._weights = load_file(checkpoint / BEST)
            note = json.loads((checkpoint / BEST_SCORE).read_text())
            self.score, self.step, self._since = note["score"], note["step"], note["since"]

    def put_back(self) -> None:
        """Give the model its best weights; without any evaluation, it keeps its last."""
        if self._weights is not None:
            self._model.load_state_dict(self._weights)


class CheckpointCallback(TrainerCallback):
    """Asks for a checkpoint from time to time and seals it."""

    def __init__(self, best: BestWeights, every_s: float) -> None:
        self._best, self._every_s = best, every_s
        self._pause_s = every_s
        self._last = self._asked = time.monotonic()

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Time for a checkpoint? The last step needs none: the version comes next."""
        due = time.monotonic() - self._last >= self._pause_s and state.global_step < state.max_steps
        if agreed(due, state.global_step):
            self._asked = time.monotonic()
            control.should_save = True

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """transformers has written its part."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            self._best.save(folder)
            seal(folder)
        self._last = time.monotonic()
        if self._every_s:
            self._pause_s = max(self._every_s, (self._last - self._asked) / MOST_OF_THE_TIME)


def agreed(wish: bool, step: int) -> bool:
    """The first process's wish, in all of them: their clocks differ, and a checkpoint is written together."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return wish
    if step % AGREE_EVERY:
        return False
    wishes = [wish]
    torch.distributed.broadcast_object_list(wishes, src=0)
    return bool(wishes[0])


def seal(folder: Path) -> None:
    """Name a checkpoint's files with sizes and SHA-256, durably and last."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            files[str(path.relative_to(folder))] = [
                path.stat().st_size,
                hashlib.file_digest(file, "sha256").hexdigest(),
            ]
    temporary = folder / f".{SEAL}"
    temporary.write_text(json.dumps(files))
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.rename(folder / SEAL)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint whose seal is true; those that are newer and broken are removed. None without any."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    for checkpoint in reversed(found):
        if _is_whole(checkpoint):
            return checkpoint
        log.warning("%s is not whole: an older one is used", checkpoint.name)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / SEAL).read_text())
        for name, (size, digest) in files.items():
            with (checkpoint / name).open("rb") as file:
                if (checkpoint / name).stat().st_size != size:
                    return False
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return False
    except (OSError, ValueError):
        return False
    return True
