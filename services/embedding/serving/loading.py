"""A version's way into memory: verified, loaded and smoke-tested in a thread of its own, or quarantined."""

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from services.embedding.metrics import Metrics
from services.embedding.models.base import Encoder, smoke_test
from shared.backoff import Backoff
from shared.logs import log_context
from shared.manifest import Manifest
from shared.model_store import BrokenVersion, ModelStore, NoVersion

log = logging.getLogger(__name__)

LoadModel = Callable[[Path, Manifest], Encoder]

OF_A_DATASET = re.compile(r"([a-z0-9][a-z0-9-]{0,63})@(.*)")
"""`dataset@current`, `dataset@previous`, `dataset@ID`, or `dataset@`, which is the current one."""
FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 300.0


@dataclass(slots=True)
class LoadFailure:
    """Why a version isn't served."""

    backoff: Backoff
    reason: str = ""
    retry_at: float = math.inf  # in seconds of a monotonic clock; infinity for a damaged version, which can't mend


class VersionLoader:
    """Loads versions of one dataset's store and of those beside it, and remembers those that failed."""

    def __init__(self, store: ModelStore, load_model: LoadModel, metrics: Metrics) -> None:
        self.store = store
        self.failures: dict[str, LoadFailure] = {}
        self._load_model, self._metrics = load_model, metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")

    async def load(self, version: str, serving: Encoder | None) -> Encoder | None:
        """The version in memory; None for one that is quarantined. `serving` is what the log says serves meanwhile."""
        if version in self.failures and time.monotonic() < self.failures[version].retry_at:
            return None
        started_at = time.perf_counter()
        try:
            encoder = await asyncio.get_running_loop().run_in_executor(self._thread, self._load, version)
        except Exception as error:
            self._quarantine(version, error, serving)
            return None
        self._metrics.load_seconds.observe(time.perf_counter() - started_at)
        self.failures.pop(version, None)
        return encoder

    def find(self, version: str) -> tuple[ModelStore, str]:
        """The store that has the version, and its id there: `dataset@id` is in the store of another dataset."""
        if (named := OF_A_DATASET.fullmatch(version)) is None:
            return self.store, version
        return ModelStore(self.store.root.with_name(named[1])), named[2]

    def close(self) -> None:
        """Load nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self, version: str) -> Encoder:
        store, id_ = self.find(version)
        encoder = self._load_model(store.path(id_), store.verify(id_))
        smoke_test(encoder)
        encoder.version = version
        return encoder

    def _quarantine(self, version: str, error: Exception, serving: Encoder | None) -> None:
        failure = self.failures.setdefault(version, LoadFailure(Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)))
        # Callers read it too, and have no business with the folders of this machine.
        reason = str(error).replace(f"{self.find(version)[0].root}/", "")
        failure.reason, failure.retry_at, retry = reason, math.inf, ""
        if not isinstance(error, BrokenVersion | NoVersion):  # anything but damage (memory, disk, a device) may pass
            wait = failure.backoff.next_s()
            failure.reason, failure.retry_at = f"{type(error).__name__}: {reason}", time.monotonic() + wait
            retry = f"; next try in {wait:.0f} s"
        self._metrics.quarantined.inc()
        serves = serving.version if serving else "nothing"
        with log_context(version=version):
            log.error("version %s is quarantined: %s%s; %s keeps serving", version, failure.reason, retry, serves)
