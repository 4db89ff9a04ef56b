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

from services.embedding.metrics import Metrics
from services.embedding.models.base import Encoder, smoke_test
from services.embedding.resources import free_memory
from shared.logs import log_context
from shared.manifest import Manifest
from shared.model_store import BrokenVersion, ModelStore, NoVersion

log = logging.getLogger(__name__)

Loader = Callable[[Path, Manifest], Encoder]

SERVING_NAMES = ("current", "pairwright")
FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 300.0
SPARE_BYTES = 256 * 1024 * 1024
"""Memory that must stay free: no version is loaded, or kept beside the serving one, at its cost."""


@dataclass(slots=True)
class Fault:
    """Why a version isn't served."""

    reason: str
    attempts: int
    retry_at: float | None
    """When to try again, in seconds of a monotonic clock; None for a damaged version, which can't mend."""


class NotServed(Exception):
    """The version that was asked for can't be had. The message lists what can."""


class NotReady(Exception):
    """No version is loaded at all. The message says why."""


class VersionRegistry:
    """The loaded versions of one store. All methods belong to the event loop; loading has a thread of its own."""

    def __init__(
        self,
        store: ModelStore,
        load: Loader,
        *,
        poll_s: float,
        max_versions: int,
        metrics: Metrics,
        memory: Callable[[], int | None] = free_memory,
    ) -> None:
        self.store = store
        self.serving: Encoder | None = None
        self.loaded: dict[str, Encoder] = {}
        """By id; what was asked for last stands last."""
        self.faults: dict[str, Fault] = {}
        self._load, self._poll_s, self._max_versions = load, poll_s, max_versions
        self._metrics, self._memory = metrics, memory
        self._wanted: tuple[str, ...] = ()
        self._lock = asyncio.Lock()
        self._woken = asyncio.Event()
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
            encoder = self.loaded.pop(name)
            self.loaded[name] = encoder
            return encoder
        raise NotServed(f"{name!r} isn't loaded; there is {', '.join(['current', *self.loaded])}")

    async def find(self, name: str | None) -> Encoder:
        """As `pick`, but a published version that isn't loaded is loaded, as far as memory and `max_versions` allow."""
        try:
            return self.pick(name)
        except NotServed as error:
            if name is None or not await self._is_published(name):
                raise NotServed(f"{error}{await self._others()}") from None
        async with self._lock:
            if name not in self.loaded:
                await self._load_pinned(name)
        return self.pick(name)

    def state(self) -> str:
        """For `/readyz`: begins with "ok" while a version serves, and names what is quarantined."""
        if self.serving is None:
            return self._why_not_ready()
        faults = self._wanted_faults()
        return f"ok; degraded: serving {self.serving.version}, because {faults}" if faults else "ok"

    async def watch(self) -> None:
        """Follow the pointer until cancelled."""
        try:
            while True:
                try:
                    await self.refresh()
                except OSError as error:  # the store's disk: what is loaded serves on
                    log.warning("can't read %s: %s", self.store.root, error)
                try:
                    async with asyncio.timeout(self._poll_s):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                self._woken.clear()
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def wake(self) -> None:
        """A hint that the pointer has changed: look now."""
        self._woken.set()

    async def refresh(self) -> None:
        """Bring what is loaded in line with the store's pointers.

        The version before is wanted too: pinned callers need it, and it serves when the current one is damaged.
        """
        async with self._lock:
            await self._refresh()

    async def reload(self) -> None:
        """Look at the pointers now, and give quarantined versions another chance."""
        self.faults.clear()
        await self.refresh()

    async def activate(self, name: str) -> str:
        """Load and prove a version, point `current` at it and serve it; its id.

        Raises `NoVersion`, `BrokenVersion` (then the pointer stays) or OSError for a store that can't be written.
        """
        version = await asyncio.to_thread(self.store.resolve, name)
        async with self._lock:
            if version not in self.loaded:
                self.faults.pop(version, None)
                self._make_room(version)
                await self._try_to_load(version)
            if version in self.faults:
                raise BrokenVersion(self.faults[version].reason)
            await asyncio.to_thread(self.store.activate, version)
            await self._refresh()
        return version

    async def _refresh(self) -> None:
        current, previous = self.store.current(), self.store.previous()
        keep_previous = self.serving is None or self._max_versions > 1
        pointed = (current, previous if keep_previous else None)
        self._wanted = tuple(dict.fromkeys(version for version in pointed if version is not None))
        for version in self._wanted:
            if version not in self.loaded:
                if version == current:
                    self._make_room(version)
                elif self.serving is not None and not self._fits(version):
                    continue
                await self._try_to_load(version)
            # At once, before the version before is loaded: a swap waits for nothing.
            if version == current or self.serving is None:
                self._serve(version)
        # Equal pointers are half a swap: the other half would name what is about to be dropped.
        if current != previous:
            self._drop_unwanted()
        self._metrics.degraded.set(bool(self._wanted_faults()))
        self._metrics.loaded.set(len(self.loaded))

    async def _load_pinned(self, version: str) -> None:
        """Raises `NotServed`."""
        if version in self.faults:
            raise NotServed(f"{version!r} is quarantined: {self.faults[version].reason}{await self._others()}")
        keep = {*self._wanted, self.serving.version if self.serving else ""}
        pinned = [one for one in self.loaded if one not in keep]
        if self._max_versions <= len(keep & self.loaded.keys()):
            raise NotServed(
                f"{version!r} isn't loaded, and PAIRWRIGHT_EMBEDDING_MAX_VERSIONS={self._max_versions} leaves no room; "
                f"there is {', '.join(['current', *self.loaded])}"
            )
        room = self._max_versions - len(keep & self.loaded.keys()) - 1
        self._drop(pinned[: len(pinned) - room])
        if not self._fits(version):
            raise NotServed(
                f"{version!r} isn't loaded, and memory is too short for it; "
                f"there is {', '.join(['current', *self.loaded])}"
            )
        await self._try_to_load(version)
        self._metrics.loaded.set(len(self.loaded))

    async def _is_published(self, name: str) -> bool:
        try:
            return await asyncio.to_thread(self.store.resolve, name) == name
        except NoVersion:
            return False

    async def _others(self) -> str:
        published = [manifest.id for manifest in await asyncio.to_thread(self.store.versions)]
        others = [one for one in published if one not in self.loaded and one not in self.faults][-20:]
        return f", and on disk {', '.join(others)}" if others else ""

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
        smoke_test(encoder)
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
        with log_context(version=version):
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
        with log_context(version=version):
            log.info(
                "serving version %s (%d dimensions, %s, %s)",
                version, encoder.manifest.dimensions, encoder.backend, encoder.precision,
            )  # fmt: skip

    # ---- room

    def _drop_unwanted(self) -> None:
        """Keep what the pointers name, and of what callers pinned the latest as far as there is room."""
        keep = {*self._wanted, self.serving.version if self.serving else ""}
        pinned = [version for version in self.loaded if version not in keep]
        room = max(0, self._max_versions - len(self.loaded) + len(pinned))
        self._drop(pinned[: len(pinned) - room] if self._spare() >= 0 else pinned)

    def _make_room(self, version: str) -> None:
        """Before the version that is to serve is loaded: whatever doesn't serve gives way, the oldest first."""
        for other in list(self.loaded):
            if self._fits(version):
                return
            if self.serving is not None and other != self.serving.version:
                self._drop([other])

    def _fits(self, version: str) -> bool:
        """Whether memory allows loading: the files once as read and once as tensors, and some to spare."""
        try:
            size = sum(entry.size for entry in self.store.manifest(version).files.values())
        except (NoVersion, BrokenVersion):
            return True  # loading will say what is wrong
        return self._spare() >= 2 * size

    def _spare(self) -> int:
        free = self._memory()
        return 2**62 if free is None else free - SPARE_BYTES

    def _drop(self, versions: list[str]) -> None:
        for version in versions:
            del self.loaded[version]
        if versions:
            # A model is full of reference cycles: without this, 40 swaps of a 90 MB model kept 1.2 GB.
            gc.collect()
            self._metrics.loaded.set(len(self.loaded))

    def _wanted_faults(self) -> str:
        found = [(version, self.faults[version]) for version in self._wanted if version in self.faults]
        return "; ".join(f"{version} is quarantined: {fault.reason}" for version, fault in found)

    def _why_not_ready(self) -> str:
        if faults := self._wanted_faults():
            return faults
        if self._wanted:
            return f"loading {self._wanted[0]}"
        return f"no version is published in {self.store.root} yet"
