"""Which versions are loaded and which one serves: follow the store's pointers, never serve an untested version.

A version goes live by one assignment, once it is loaded and smoke-tested. A request that holds the version before keeps
it until done, so a swap fails nobody and mixes nothing.
"""

import asyncio
import gc
import logging

from services.embedding.metrics import Metrics
from services.embedding.models.base import Encoder
from services.embedding.resources import free_memory
from services.embedding.serving.errors import InvalidInput, NotReady, VersionNotServed
from services.embedding.serving.loading import OF_A_DATASET, VersionLoader
from services.embedding.settings import EmbeddingSettings
from shared.backoff import pause
from shared.logs import log_context
from shared.model_store import BrokenVersion, NoVersion

log = logging.getLogger(__name__)

SERVING_NAMES = ("current", "pairwright")
LATEST = ":latest"
"""Ollama's clients put it behind a name without a tag."""
RETRY_AFTER_S = 2
SPARE_BYTES = 256 * 1024 * 1024
"""Memory that must stay free: no version is loaded, or kept beside the serving one, at its cost."""


class VersionRegistry:
    """The loaded versions of a dataset's store, and those of other datasets that callers name.

    All methods belong to the event loop; loading has a thread of its own.
    """

    def __init__(self, loader: VersionLoader, settings: EmbeddingSettings, metrics: Metrics) -> None:
        self.store = loader.store
        self.serving: Encoder | None = None
        self.loaded: dict[str, Encoder] = {}  # by id; the one that was asked for last stands last
        self.failures = loader.failures
        self._loader, self._metrics = loader, metrics
        self._poll_s, self._max_versions = settings.poll_seconds, settings.max_versions
        self._targets: tuple[str, ...] = ()  # what the pointers name, the current version first
        self._previous: str | None = None
        self._lock = asyncio.Lock()
        self._wakeup = asyncio.Event()
        metrics.loaded.set_function(lambda: len(self.loaded))
        metrics.degraded.set_function(lambda: bool(self._target_failures()))

    def get_loaded(self, name: str | None) -> Encoder:
        """The encoder for a loaded version's name. Raises `NotReady` or `VersionNotServed`."""
        if self.serving is None:
            raise NotReady(self._why_not_ready(), retry_after=RETRY_AFTER_S)
        version = self._pinned_by(name)
        if version is None:
            return self.serving
        if version not in self.loaded:
            raise self._not_served(f"{name!r} isn't loaded; ")
        self.loaded[version] = self.loaded.pop(version)
        return self.loaded[version]

    async def get(self, name: str | None) -> Encoder:
        """As `get_loaded`, but a published version that isn't loaded is loaded, if there is room for it."""
        try:
            return self.get_loaded(name)
        except VersionNotServed:
            version = self._pinned_by(name)
            if version is None or not await asyncio.to_thread(self.is_published, version):
                nothing = self._not_served(f"there is no version {name!r}; ")
                raise VersionNotServed(f"{nothing}{await self._others()}", "model") from None
        async with self._lock:
            if version not in self.loaded:
                await self._load_pinned(version)
        return self.get_loaded(version)

    async def choose(self, *names: str | None) -> Encoder:
        """The version of a request that can name it in several places. Raises `InvalidInput` where they disagree."""
        pins = {version: name for name in names if (version := self._pinned_by(name)) is not None}
        if len(pins) > 1:
            detail = f"{' and '.join(map(repr, pins.values()))} are two versions: name one, in the body or the header"
            raise InvalidInput(detail, "model", "conflicting_versions")
        return await self.get(next(iter(pins), None))

    def _pinned_by(self, name: str | None) -> str | None:
        """The id that a name stands for; None for whatever serves. Raises `VersionNotServed`."""
        name = (name or "").removesuffix(LATEST)
        if (named := OF_A_DATASET.fullmatch(name)) is not None:
            dataset, version = named.groups()
            if dataset != self.store.root.name:
                return self._of_another_dataset(dataset, version)
            name = version
        if not name or name in SERVING_NAMES:
            return None
        if name != "previous":
            return name
        if self._previous is None:
            raise self._not_served("there is no previous version; ")
        return self._previous

    def _of_another_dataset(self, dataset: str, version: str) -> str:
        """A version's name here, of a dataset beside this one. Raises `VersionNotServed`."""
        name = "current" if not version or version in SERVING_NAMES else version
        try:
            return f"{dataset}@{self._loader.find(f'{dataset}@{name}')[0].resolve(name)}"
        except NoVersion as error:
            raise VersionNotServed(f"dataset {dataset!r}: {error}", "model") from None

    def is_published(self, version: str) -> bool:
        """Whether the version that is named so is on disk."""
        store, id_ = self._loader.find(version)
        try:
            return store.resolve(id_) == id_
        except NoVersion:
            return False

    def state(self) -> str:
        """For `/readyz`: begins with "ok" while a version serves, and names what is quarantined."""
        if self.serving is None:
            return self._why_not_ready()
        failures = self._target_failures()
        return f"ok; degraded: serving {self.serving.version}, because {failures}" if failures else "ok"

    async def watch(self) -> None:
        """Follow the pointers until cancelled."""
        try:
            while True:
                try:
                    await self.refresh()
                except OSError as error:  # the store's disk: what is loaded serves on
                    log.warning("can't read %s: %s", self.store.root, error)
                await pause(self._wakeup, self._poll_s)
                self._wakeup.clear()
        finally:
            self._loader.close()

    def wake(self) -> None:
        """A hint that the pointers have changed: read them now."""
        self._wakeup.set()

    async def refresh(self, *, retry_quarantined: bool = False) -> None:
        """Bring what is loaded in line with the store's pointers."""
        if retry_quarantined:
            self.failures.clear()
        async with self._lock:
            await self._refresh()

    async def activate(self, name: str, pin: bool = False, rejected: bool = False) -> str:
        """Load a version, point `current` at it and serve it; its id. Pinned, it stays current whatever is published.

        With `rejected`, a candidate that the gate refused becomes a version first. Raises `NoVersion`, `BrokenVersion`
        (then the pointer stays) or OSError for a store that can't be written.
        """
        if rejected:
            await asyncio.to_thread(self._admit, name)
        version = await asyncio.to_thread(self.store.resolve, name)
        async with self._lock:
            if version not in self.loaded:
                self.failures.pop(version, None)
                self._make_room(version)
                await self._load(version)
            if version in self.failures:
                raise BrokenVersion(self.failures[version].reason)
            await asyncio.to_thread(self.store.pin if pin else self.store.activate, version)
            await self._refresh()
        return version

    def _admit(self, name: str) -> None:
        if any(one.id == name for one in self.store.rejected()):  # if not, it may be a version by now
            self.store.admit(name)

    async def _refresh(self) -> None:
        current, previous = self.store.current(), self.store.previous()
        self._previous = previous
        # The version before is loaded too: pinned callers need it, and it serves when the current one is damaged.
        pointers = (current, previous if self.serving is None or self._max_versions > 1 else None)
        self._targets = tuple(dict.fromkeys(version for version in pointers if version is not None))
        for version in self._targets:
            if version not in self.loaded:
                if version == current:
                    self._make_room(version)
                elif self.serving is not None and not self._fits(version):
                    continue
                await self._load(version)
            # At once, before the version before is loaded: a swap waits for nothing.
            if version == current or self.serving is None:
                self._serve(version)
        # Equal pointers are half a swap: the other half would name what is about to be dropped.
        if current != previous:
            self._drop_pinned(self._room_for_pins() if free_memory() >= SPARE_BYTES else 0)

    async def _load(self, version: str) -> None:
        encoder = await self._loader.load(version, self.serving)
        if encoder is not None:
            self.loaded[version] = encoder

    async def _load_pinned(self, version: str) -> None:
        """Raises `VersionNotServed`."""
        await self._refuse_quarantined(version)
        room = self._room_for_pins()
        if room < 1:
            setting = f"PAIRWRIGHT_EMBEDDING_MAX_VERSIONS={self._max_versions}"
            raise self._not_served(f"{version!r} isn't loaded, and {setting} leaves no room; ")
        self._drop_pinned(room - 1)
        if not self._fits(version):
            raise self._not_served(f"{version!r} isn't loaded, and memory is too short for it; ")
        await self._load(version)
        await self._refuse_quarantined(version)

    async def _refuse_quarantined(self, version: str) -> None:
        """Raises `VersionNotServed`."""
        if version in self.failures:
            reason = f"{version!r} is quarantined: {self.failures[version].reason}{await self._others()}"
            raise VersionNotServed(reason, "model")

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
            kind = f"{encoder.manifest.dimensions} dimensions, {encoder.backend}, {encoder.precision}"
            log.info("serving version %s (%s)", version, kind)

    def _pinned(self) -> list[str]:
        """The loaded versions that only callers name; the one named longest ago is first."""
        keep = {*self._targets, self.serving.version if self.serving else ""}
        return [version for version in self.loaded if version not in keep]

    def _room_for_pins(self) -> int:
        return self._max_versions - (len(self.loaded) - len(self._pinned()))

    def _drop_pinned(self, room: int) -> None:
        """Keep the `room` versions that callers named last, of those that only callers name."""
        pinned = self._pinned()
        self._drop(pinned[: max(0, len(pinned) - room)])

    def _make_room(self, version: str) -> None:
        """Before the version that is to serve is loaded: whatever doesn't serve gives way, the oldest first."""
        for other in list(self.loaded):
            if self._fits(version):
                return
            if self.serving is not None and other != self.serving.version:
                self._drop([other])

    def _fits(self, version: str) -> bool:
        """Whether memory allows loading: the files once as read and once as tensors, and some to spare."""
        store, id_ = self._loader.find(version)
        try:
            size = sum(entry.size for entry in store.manifest(id_).files.values())
        except (NoVersion, BrokenVersion):
            return True  # loading will say what is wrong
        return free_memory() - SPARE_BYTES >= 2 * size

    def _drop(self, versions: list[str]) -> None:
        for version in versions:
            del self.loaded[version]
        if versions:
            # A model is full of reference cycles: without this, 40 swaps of a 90 MB model kept 1.2 GB.
            gc.collect()

    def _not_served(self, reason: str) -> VersionNotServed:
        names = ["current", *(["previous"] if self._previous else []), *self.loaded]
        return VersionNotServed(f"{reason}there is {', '.join(names)}", "model")

    async def _others(self) -> str:
        published = [manifest.id for manifest in await asyncio.to_thread(self.store.versions)]
        others = [version for version in published if version not in self.loaded and version not in self.failures][-20:]
        return f", and on disk {', '.join(others)}" if others else ""

    def _target_failures(self) -> str:
        failures = [(version, self.failures[version]) for version in self._targets if version in self.failures]
        return "; ".join(f"{version} is quarantined: {failure.reason}" for version, failure in failures)

    def _why_not_ready(self) -> str:
        if failures := self._target_failures():
            return failures
        if self._targets:
            return f"loading {self._targets[0]}"
        return f"no version of dataset {self.store.root.name!r} is published yet"
