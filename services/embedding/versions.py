"""Which versions are loaded and which one serves: follow the store's pointer, never serve what isn't proven.

A version goes live by one assignment, after it was verified, loaded beside the others, warmed up and proven. Whoever
took the version before keeps it until done, so a swap fails nobody and mixes nothing.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from services.embedding.encoder import Encoder, prove
from services.embedding.metrics import Metrics
from shared.model_store import BrokenVersion, Manifest, ModelStore, NoVersion

log = logging.getLogger(__name__)

Loader = Callable[[Path, Manifest], Encoder]

SERVING_NAMES = ("current", "pairwright")
FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 300.0


@dataclass(slots=True)
class Fault:
    """Why a version isn't served."""

    reason: str
    attempts: int
    retry_at: float | None
    """When to try again, in seconds of a monotonic clock; None for a damaged version, which can't mend."""


class NotServed(Exception):
    """The version that was asked for isn't loaded. The message lists what is."""


class NotReady(Exception):
    """No version is loaded at all. The message says why."""


class Versions:
    """The loaded versions of one store. All methods belong to the event loop; loading has a thread of its own."""

    def __init__(
        self, store: ModelStore, load: Loader, *, poll_s: float, keep_previous: bool, metrics: Metrics
    ) -> None:
        self.store = store
        self.serving: Encoder | None = None
        self.loaded: dict[str, Encoder] = {}
        self.faults: dict[str, Fault] = {}
        self._load, self._poll_s, self._keep_previous = load, poll_s, keep_previous
        self._metrics = metrics
        self._wanted: tuple[str, ...] = ()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")

    def pick(self, name: str | None) -> Encoder:
        """The encoder for a caller's `name`: a loaded id, or one of the names of the serving version.

        Raises `NotReady` or `NotServed`.
        """
        if self.serving is None:
            raise NotReady(self._why_not_ready())
        if not name or name in SERVING_NAMES:
            return self.serving
        if name in self.loaded:
            return self.loaded[name]
        raise NotServed(f"{name!r} isn't loaded; there is {', '.join(['current', *self.loaded])}")

    def state(self) -> str:
        """For `/readyz`: begins with "ok" while a version serves, and names what is quarantined."""
        if self.serving is None:
            return self._why_not_ready()
        faults = self._wanted_faults()
        return f"ok; serving {self.serving.version}, because {faults}" if faults else "ok"

    async def watch(self) -> None:
        """Follow the pointer until cancelled."""
        try:
            while True:
                try:
                    await self.refresh()
                except OSError as error:  # the store's disk: what is loaded serves on
                    log.warning("can't read %s: %s", self.store.root, error)
                await asyncio.sleep(self._poll_s)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def refresh(self) -> None:
        """Bring what is loaded in line with the store's pointers.

        The version before is wanted too: pinned callers need it, and it serves when the current one is damaged.
        """
        current, previous = self.store.current(), self.store.previous()
        pointed = (current, previous if self._keep_previous or self.serving is None else None)
        self._wanted = tuple(version for version in pointed if version is not None)
        for version in self._wanted:
            if version not in self.loaded:
                await self._try_to_load(version)
            # At once, before the version before is loaded: a swap waits for nothing.
            if version == current or self.serving is None:
                self._serve(version)
        # Equal pointers are half a swap: the other half would name what is about to be dropped.
        if current != previous:
            self._drop_unwanted()

    async def _try_to_load(self, version: str) -> None:
        fault = self.faults.get(version)
        if fault is not None and (fault.retry_at is None or time.monotonic() < fault.retry_at):
            return
        began = time.perf_counter()
        try:
            encoder = await asyncio.get_running_loop().run_in_executor(self._thread, self._load_and_prove, version)
        except Exception as error:
            self._quarantine(version, error)
            return
        self._metrics.load_seconds.observe(time.perf_counter() - began)
        self.faults.pop(version, None)
        self.loaded[version] = encoder

    def _load_and_prove(self, version: str) -> Encoder:
        manifest = self.store.verify(version)
        encoder = self._load(self.store.path(version), manifest)
        prove(encoder)
        return encoder

    def _quarantine(self, version: str, error: Exception) -> None:
        damaged = isinstance(error, BrokenVersion | NoVersion)
        attempts = self.faults[version].attempts + 1 if version in self.faults else 1
        # Anything but damage (memory, disk, a device) may pass.
        wait = None if damaged else min(FIRST_RETRY_S * 2 ** (attempts - 1), LONGEST_RETRY_S)
        reason = str(error) if damaged else f"{type(error).__name__}: {error}"
        self.faults[version] = Fault(reason, attempts, None if wait is None else time.monotonic() + wait)
        self._metrics.quarantined.inc()
        again = "" if wait is None else f"; next try in {wait:.0f} s"
        serving = self.serving.version if self.serving else "nothing"
        log.error("version %s is quarantined: %s%s; %s keeps serving", version, reason, again, serving)

    def _serve(self, version: str) -> None:
        encoder = self.loaded.get(version)
        if encoder is None or encoder is self.serving:
            return
        if self.serving is not None:
            self._metrics.serving.labels(self.serving.version).set(0)
            self._metrics.swaps.inc()
        self.serving = encoder
        self._metrics.serving.labels(version).set(1)
        log.info("serving version %s (%d dimensions)", version, encoder.manifest.dimensions)

    def _drop_unwanted(self) -> None:
        unwanted = [
            version
            for version, encoder in self.loaded.items()
            if version not in self._wanted and encoder is not self.serving
        ]
        for version in unwanted:
            del self.loaded[version]
        if unwanted:
            # A model is full of reference cycles: without this, 40 swaps of a 90 MB model kept 1.2 GB.
            gc.collect()

    def _wanted_faults(self) -> str:
        found = [(version, self.faults[version]) for version in self._wanted if version in self.faults]
        return "; ".join(f"{version} is quarantined: {fault.reason}" for version, fault in found)

    def _why_not_ready(self) -> str:
        if faults := self._wanted_faults():
            return faults
        if self._wanted:
            return f"loading {self._wanted[0]}"
        return f"no version is published in {self.store.root} yet"
