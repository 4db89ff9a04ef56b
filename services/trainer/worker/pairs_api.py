"""`DELETE /pairs` of the trainer: what is deleted by job, task, label, score or text is not in the next round."""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from services.trainer.dataset.pair_rows import Selection
from services.trainer.worker.parts import Parts
from shared.errors import first_line
from shared.http.problems import Problem
from shared.pairs import Score

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1", "localhost")
TITLE = "The dataset is not available"


class PairsQuery(BaseModel, extra="forbid"):
    """Which pairs; a misspelt name is an error, or more would be deleted than is meant."""

    job: str | None = None
    task: str | None = None
    label: str | None = None
    score: Score | None = None
    text: Annotated[str | None, Field(min_length=1)] = None
    """What one of the two sentences contains, letter for letter."""
    dry_run: bool = False
    """Only count them."""

    def selection(self) -> Selection:
        """What it selects. Raises `Problem` if that is everything."""
        selection = Selection(**self.model_dump(exclude={"dry_run"}))
        if not selection:
            detail = "Name the pairs by job, task, label, score or text; all that is given must hold."
            raise Problem(422, "Invalid request", detail)
        return selection


class PairsApi:
    """The route, and the parts of the trainer that answer it while it works on the dataset."""

    def __init__(self, host: str, has_keys: bool) -> None:
        self._parts: Parts | None = None
        self._is_safe = has_keys or host in LOOPBACK
        self.router = APIRouter(tags=["pairs"])
        self.router.delete("/pairs", summary="Delete pairs from the dataset")(self._delete)

    @contextlib.contextmanager
    def answered_by(self, parts: Parts) -> Iterator[None]:
        """Answer with these parts until the block ends."""
        self._parts = parts
        try:
            yield
        finally:
            self._parts = None

    async def _delete(self, query: Annotated[PairsQuery, Query()]) -> dict[str, int]:
        if not self._is_safe:
            detail = "Set PAIRWRIGHT_API_KEYS: without a key, pairs are deleted over loopback only."
            raise Problem(403, "Forbidden", detail)
        selection = query.selection()
        if (parts := self._parts) is None:
            detail = "This trainer waits for another one that works on the dataset: ask that one."
            raise Problem(503, TITLE, detail, {"Retry-After": "5"})
        try:
            if query.dry_run:
                return {"selected": await parts.dataset.run_beside(lambda dataset: dataset.count_selected(selection))}
            return {"deleted": await delete(parts, selection)}
        except (sqlite3.Error, OSError) as error:
            detail = f"{first_line(error)}; what was deleted before stays so. Ask again."
            raise Problem(503, TITLE, detail, {"Retry-After": "5"}) from None


async def delete(parts: Parts, selection: Selection) -> int:
    """Delete the selected pairs, in portions between which collecting goes on; how many. Raises sqlite3.Error."""
    last, deleted = 0, 0
    while True:
        after = last
        ids = await parts.dataset.run_beside(lambda dataset: dataset.find(selection, after))  # noqa: B023
        if not ids:
            break
        hashes = await parts.dataset.run(lambda dataset: dataset.remove(ids))  # noqa: B023
        last, deleted = ids[-1], deleted + len(hashes)
        try:
            await parts.writer.forget(hashes)
        except (RedisError, OSError) as error:
            log.warning("for seven days, jobs can't send %d deleted pairs again: %s", len(hashes), first_line(error))
    log.info("%d pairs were deleted on request", deleted)
    return deleted
