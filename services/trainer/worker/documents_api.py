"""The corpus over HTTP: `GET /documents` counts, `GET /passages` reads it all, `DELETE /documents` takes some out."""

import json
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from services.trainer.dataset.document_rows import DocumentSelection, StoredPassage
from services.trainer.dataset.store import Dataset
from services.trainer.worker.collector import forget
from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.parts import Parts
from shared.errors import first_line
from shared.http.problems import Problem

log = logging.getLogger(__name__)

FIRST = 5
PORTION = 100
"""Documents that are deleted in one transaction: each may have thousands of passages."""
Given = Annotated[str | None, Field(min_length=1)]


class PassagesQuery(BaseModel, extra="forbid"):
    """A page of the corpus."""

    after: Annotated[int, Field(ge=0)] = 0
    """The last id of the page before."""
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


class DocumentsQuery(BaseModel, extra="forbid"):
    """Which documents; a misspelt name is an error, or more would be deleted than is meant."""

    id: Given = None
    source: Given = None
    """The file that they came from."""
    text: Given = None
    """What the title or text of one of its passages contains, letter for letter."""
    dry_run: bool = False
    """Only count them."""

    def selection(self) -> DocumentSelection:
        """What it selects. Raises `Problem` if that is everything."""
        selection = DocumentSelection(**self.model_dump(exclude={"dry_run"}))
        if not selection:
            detail = "Name the documents by id, source or text; all that is given must hold."
            raise Problem(422, "Invalid request", detail)
        return selection


def documents_router(api: DatasetApi) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["documents"])

    @router.get("/documents", summary="How many documents and passages, and the first ones")
    async def count() -> dict[str, Any]:
        with api.parts() as parts:
            return await parts.dataset.run_beside(_counts)

    @router.get("/passages", summary="The corpus, a page at a time, as JSON Lines")
    async def read(query: Annotated[PassagesQuery, Query()]) -> Response:
        with api.parts() as parts:
            page = await parts.dataset.run_beside(lambda dataset: list(dataset.passages(query.after, query.limit)))
            return Response("".join(map(_line, page)), media_type="application/jsonl")

    @router.delete("/documents", summary="Delete documents, and the queries written for their passages")
    async def remove(query: Annotated[DocumentsQuery, Query()]) -> dict[str, int]:
        with api.parts() as parts:
            selection = query.selection()
            if query.dry_run:
                count = await parts.dataset.run_beside(lambda dataset: dataset.count_selected_documents(selection))
                return {"selected": count}
            return await delete(parts, selection)

    return router


def _counts(dataset: Dataset) -> dict[str, Any]:
    first = [passage._asdict() for passage in dataset.passages(most=FIRST)]
    told = {"short_texts": dataset.holds_short_texts(), "last_passage": dataset.last_passage(), "first": first}
    return dataset.corpus_size()._asdict() | told


async def delete(parts: Parts, selection: DocumentSelection) -> dict[str, int]:
    """Delete the selected documents, in portions between which collecting goes on. Raises sqlite3.Error."""
    last, documents, pairs = 0, 0, 0
    while True:
        after = last
        ids = await parts.dataset.run_beside(lambda dataset: dataset.find_documents(selection, after, PORTION))  # noqa: B023
        if not ids:
            break
        names, hashes = await parts.dataset.run(lambda dataset: dataset.remove_documents(ids))  # noqa: B023
        last, documents, pairs = ids[-1], documents + len(names), pairs + len(hashes)
        await forget(parts.writer, hashes)
        try:
            await parts.writer.forget_documents(names)
        except (RedisError, OSError) as error:
            log.warning("for seven days, %d deleted documents can't be added again: %s", len(names), first_line(error))
    log.info("%d documents were deleted on request, and %d pairs written for their passages", documents, pairs)
    return {"deleted": documents, "pairs": pairs}


def _line(passage: StoredPassage) -> str:
    return json.dumps(passage._asdict(), ensure_ascii=False) + "\n"
