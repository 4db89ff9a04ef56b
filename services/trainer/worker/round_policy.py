"""When a round starts. Pure decisions; the worker brings the facts."""

import math
import os
from pathlib import Path

from services.trainer.settings import TrainerSettings, Wait
from shared.backoff import Backoff

FEW_CORES = 8
NVIDIA = Path("/dev/nvidiactl")


def due(new_pairs: int, idle_s: float, settings: TrainerSettings) -> bool:
    """Whether the new pairs are worth a round: many, or some and then `idle_s` seconds without another."""
    some_and_quiet = new_pairs >= settings.round_min_pairs and idle_s >= settings.round_seconds
    return some_and_quiet or new_pairs >= settings.round_pairs


def retry_pause_s(failures: int, settings: TrainerSettings) -> float:
    """Seconds before a round that has failed so many times is run again."""
    return Backoff(settings.retry_seconds, math.inf, factor=4, jitter=0, failures=failures - 1).next_s()


def yields_to_generation(wait: Wait) -> bool:
    """Whether a round waits while pairs are generated."""
    # vLLM's worker threads spin in step: when training takes one of their few cores, all of them wait for it.
    is_slowed = (os.cpu_count() or 1) < FEW_CORES and not NVIDIA.exists()
    return is_slowed if wait == "auto" else wait == "always"


class Patience:
    """Waits for generation to end, but not for ever."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: float | None = None

    def lasts(self, busy: bool, now_s: float) -> bool:
        """Whether to wait on. The clock starts with the first call that finds generation busy and ends with False."""
        if self._since is None:
            self._since = now_s
        lasts = busy and now_s - self._since < self._limit_s
        self._since = self._since if lasts else None
        return lasts
