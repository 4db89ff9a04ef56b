"""A sample of the dataset's texts over HTTP, and a map of them."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from services.trainer.worker.dataset_api import DatasetApi, problem_errors
from services.trainer.worker.map_maker import MapProgress
from shared.http.problems import Problem
from shared.model_store import NoVersion

MOST_TEXTS, MOST_POINTS = 5000, 20_000
RETRY_AFTER_S = 1


class Text(BaseModel, use_attribute_docstrings=True):
    """A text of the dataset."""

    id: int
    """The pair's, or the passage's."""
    text: str
    kind: Literal["pair", "passage"]
    label: str | None
    """Of a pair: what the teacher was asked for."""
    source: str | None
    """A pair's job; a passage's file, or its document where it has none."""


class Texts(BaseModel):
    """A sample."""

    texts: list[Text]


class Points(BaseModel, use_attribute_docstrings=True):
    """The texts, a column for each fact: the i-th value of each column is of the i-th text."""

    x: list[float]
    y: list[float]
    id: list[int]
    """The pair's, or the passage's."""
    text: list[str]
    """The first 300 characters."""
    kind: list[Literal["pair", "passage"]]
    label: list[str | None]
    source: list[str | None]
    surprise: list[float | None]
    """How far the cosine is from the score, on average over the text's pairs that have a cosine."""
    cluster: list[int]
    neighbours: list[list[int]]
    """Up to five places, the nearest first, by exact cosine."""
    duplicate_of: list[int | None]
    """The place of an earlier text that is nearly the same: a cosine of 0.97 or more."""


class Cluster(BaseModel, use_attribute_docstrings=True):
    """Texts that are near each other."""

    id: int
    words: list[str]
    """Those that tell it from the others."""
    size: int


class Map(BaseModel, use_attribute_docstrings=True):
    """Where a version puts the dataset's texts."""

    version: str
    computed: str
    """When."""
    pairs: int
    """That the dataset had then."""
    passages: int
    points: Points
    clusters: list[Cluster]


class MapQuery(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Which map."""

    version: str = "current"
    """An id, `current` or `previous`."""
    limit: Annotated[int, Field(ge=1, le=MOST_POINTS)] = MOST_POINTS
    """At most so many texts, drawn by chance."""
    renew: bool = False
    """Compute it anew: it is kept, and does not have what has come since."""


def map_router(api: DatasetApi) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["texts"])

    @router.get("/texts", summary="A drawn sample of the dataset's texts", responses=problem_errors(401, 403, 422, 503))
    async def texts(
        limit: Annotated[int, Query(ge=1, le=MOST_TEXTS)] = 2000,
        seed: Annotated[int, Query(ge=0, lt=2**32)] = 0,
    ) -> Texts:
        with api.parts() as parts:
            drawn = await parts.dataset.run_beside(lambda dataset: dataset.sample_texts(limit, seed))
            return Texts(texts=[Text(**one._asdict()) for one in drawn])

    progress: dict[int | str, dict[str, Any]] = {202: {"model": MapProgress, "description": "It is being computed"}}
    summary = "The dataset's texts in the plane, as a version sees them"

    @router.get(
        "/map",
        summary=summary,
        response_model=Map,
        responses=progress | problem_errors(401, 403, 404, 422, 500, 503),
    )
    async def show(query: Annotated[MapQuery, Query()]) -> Response:
        with api.parts() as parts:
            try:
                id_ = await asyncio.to_thread(parts.store.resolve, query.version)
            except NoVersion as error:
                raise Problem(404, "No such version", str(error)) from None
            found = await parts.maps.find(id_, query.limit, query.renew)
            if isinstance(found, Path):
                return FileResponse(found, media_type="application/json")
            return JSONResponse(found.model_dump(), 202, {"Retry-After": str(RETRY_AFTER_S)})

    return router
