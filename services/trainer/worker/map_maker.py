"""Computes maps of the dataset's texts in a child process, one at a time, and keeps them by version."""

import asyncio
import contextlib
import json
import logging
from pathlib import Path

from pydantic import BaseModel

from services.trainer.dataset.store import DatasetThread
from services.trainer.worker.child import follow_child, how_it_ended
from services.trainer.worker.live_round import LiveRound
from shared.http.problems import Problem

log = logging.getLogger(__name__)


class MapProgress(BaseModel, use_attribute_docstrings=True):
    """How far a map is that is being computed."""

    state: str
    done: int = 0
    of: int = 0
    """0 where that is not known."""


class MapMaker:
    """Computes maps, one at a time, and not while a round runs."""

    def __init__(self, dataset: DatasetThread, folder: Path, live: LiveRound) -> None:
        self._dataset, self._folder, self._live = dataset, folder, live
        self._making: asyncio.Task[None] | None = None
        self._file = Path()
        self._progress = MapProgress(state="starting")
        self._error: str | None = None

    async def find(self, version: str, limit: int, renew: bool) -> Path | MapProgress:
        """The file of a version's map, or how far it is. Raises `Problem` for one that could not be computed."""
        deletions = await self._dataset.run_beside(lambda dataset: dataset.deletions())
        file = self._folder / f"{version}-{limit}-{deletions}.json"  # what is deleted is in no map that is shown
        is_making = self._making is not None and not self._making.done()
        if is_making and self._file == file:
            return self._progress
        if self._file == file and self._error is not None:
            error, self._error = self._error, None
            raise Problem(500, "No map", f"It could not be computed: {error}. Ask again to try again.")
        if file.is_file() and not renew:
            return file
        if is_making:
            return MapProgress(state="waiting for another map")
        if self._live.id is not None:
            return MapProgress(state=f"waiting for round {self._live.id}")
        self._file, self._progress, self._error = file, MapProgress(state="starting"), None
        self._making = asyncio.create_task(self._make(version, file, limit))
        return self._progress

    async def stop(self) -> None:
        """End the process that computes one."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)

    async def _make(self, version: str, file: Path, limit: int) -> None:
        def follow(line: bytes) -> None:
            with contextlib.suppress(ValueError):  # a line torn by the child's death
                told = json.loads(line)
                self._error = told.get("error")
                self._progress = MapProgress.model_validate({"state": "failed"} | told)

        status = await follow_child(["map", version, str(file), "--limit", str(limit)], follow)
        if status != 0:
            self._error = self._error or how_it_ended(status)
            log.warning("the map of %s: %s", version, self._error)
