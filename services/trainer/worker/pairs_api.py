"""`DELETE /pairs` of the trainer: what is deleted by job, task, label, score or text is not in the next round."""

import logging
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from services.trainer.dataset.pair_rows import Selection
from services.trainer.worker.collector import forget
from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.parts import Parts
from shared.http.problems import Problem
from shared.pairs import Score

log = logging.getLogger(__name__)


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


def pairs_router(api: DatasetApi) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["pairs"])

    @router.delete("/pairs", summary="Delete pairs from the dataset")
    async def remove(query: Annotated[PairsQuery, Query()]) -> dict[str, int]:
        with api.parts() as parts:
            selection = query.selection()
            if query.dry_run:
                return {"selected": await parts.dataset.run_beside(lambda dataset: dataset.count_selected(selection))}
            return {"deleted": await delete(parts, selection)}

    return router


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
        await forget(parts.writer, hashes)
    log.info("%d pairs were deleted on request", deleted)
    return deleted
