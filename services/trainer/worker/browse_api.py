"""The dataset's pairs over HTTP, as a person looks at them: pages, export, a summary, corrections, one deletion."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, model_validator

from services.trainer.dataset.browsing import BrowsedPair, Order, PairFilter, Position
from services.trainer.worker.collector import forget
from services.trainer.worker.dataset_api import DatasetApi, problem_errors
from services.trainer.worker.parts import Parts
from shared.http.problems import Problem
from shared.pairs import Score

JSONL = "application/jsonl"
MOST, DEFAULT, PORTION = 1000, 100, 1000
LARGEST_ID = 2**63 - 1
PairId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
Text = Annotated[str | None, Field(min_length=1)]


class BrowseQuery(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Which pairs, in which order. All that is given must hold."""

    order: Order = "newest"
    """`surprise`: those first whose cosine by the current version is furthest from their score."""
    job: Text = None
    task: Text = None
    label: Text = None
    score: Score | None = None
    min_score: Score | None = None
    max_score: Score | None = None
    text: Text = None
    """What one of the two sentences contains; A to Z may be small or capital."""
    checked: bool | None = None
    cursor: Text = None
    """The `next` of the page before."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """At most so many: 100 if left out, 1000 at most. As JSON Lines: all, or as many as are asked for."""
    format: Literal["json", "jsonl"] | None = None
    """`jsonl` streams everything that is selected, as the header `Accept: application/jsonl` does."""

    def wanted(self) -> PairFilter:
        """What it selects."""
        return PairFilter(**self.model_dump(include=set(PairFilter.__dataclass_fields__)))

    def position(self) -> Position | None:
        """Where the page begins; None at the start. Raises `Problem` for a cursor that is none."""
        if self.cursor is None:
            return None
        id_, _, surprise = self.cursor.partition("_")
        try:
            position = Position(int(id_), float(surprise or 0))
        except ValueError:
            position = Position(0)
        if not 0 < position.id <= LARGEST_ID:
            raise Problem(422, "Invalid request", "cursor: send the `next` of the page before, or leave it out.")
        return position


class PairInfo(BaseModel, use_attribute_docstrings=True):
    """A pair of the dataset."""

    id: int
    """Another score gives a pair another id."""
    sentence1: str
    sentence2: str
    score: float
    """From 0 (different topics) to 1 (same meaning)."""
    job: str
    task: str
    label: str
    """What the teacher was asked for; a correction leaves it."""
    checked: bool
    """A person has looked at it."""
    corrected: bool
    """A person gave it another score."""
    cosine: float | None
    """By `version`; null for pairs that came after its round, and beyond the newest 100,000."""
    version: str | None
    collected: datetime


class Page(BaseModel, use_attribute_docstrings=True):
    """Some pairs; with `next` there may be more, even where this page is short or empty."""

    pairs: list[PairInfo]
    next: str | None
    total: int
    """Pairs in the dataset, selected or not."""


class JobPairs(BaseModel):
    """A job, and how many of its pairs the dataset has."""

    job: str
    pairs: int


class PairsSummary(BaseModel, use_attribute_docstrings=True):
    """What there is to filter by."""

    total: int
    new: int
    """Pairs that came, or got another score, since the last round was planned."""
    checked: int
    tasks: dict[str, int]
    labels: dict[str, int]
    jobs: list[JobPairs]
    """The 20 newest."""


class Review(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """What a person says of a pair."""

    score: Score | None = None
    checked: bool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Review":
        if self.score is None and self.checked is None:
            raise ValueError("send `score`, `checked` or both")
        return self


class Deleted(BaseModel):
    """How many pairs were deleted."""

    deleted: int


def browse_router(api: DatasetApi) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["pairs"])
    streamed: dict[int | str, dict[str, Any]] = {200: {"content": {JSONL: {"schema": {"type": "string"}}}}}

    @router.get(
        "/pairs",
        summary="A page of the dataset's pairs, filtered; all of them as JSON Lines",
        response_model=Page,
        responses=streamed | problem_errors(401, 403, 422, 503),
    )
    async def browse(query: Annotated[BrowseQuery, Query()], request: Request) -> Any:
        with api.parts() as parts:
            wanted, position = query.wanted(), query.position()
            if query.format == "jsonl" or (query.format is None and JSONL in request.headers.get("accept", "")):
                named = {"Content-Disposition": f'attachment; filename="{parts.settings.dataset}.jsonl"'}
                lines = _lines(parts, wanted, query.order, position, query.limit)
                return StreamingResponse(lines, media_type=JSONL, headers=named)
            most = query.limit or DEFAULT
            if most > MOST:
                detail = f"limit: must be at most {MOST}; `format=jsonl` streams all that is selected."
                raise Problem(422, "Invalid request", detail)
            page, version, total = await parts.dataset.run_beside(
                lambda dataset: (
                    dataset.page(wanted, query.order, most, position), dataset.cosine_version(), dataset.count(),
                )
            )  # fmt: skip
            found = [_info(pair, version) for pair in page.pairs]
            return Page(pairs=found, next=_cursor(page.next, query.order), total=total)

    @router.get(
        "/pairs/summary", summary="How many pairs, by task, label and job", responses=problem_errors(401, 403, 503)
    )
    async def summary() -> PairsSummary:
        with api.parts() as parts:
            counts = await parts.dataset.run_beside(lambda dataset: dataset.summary())
            jobs = [JobPairs(job=job, pairs=pairs) for job, pairs in counts.jobs.items()]
            return PairsSummary(**counts._asdict() | {"jobs": jobs})

    _add_changes(router, api)
    return router


def _add_changes(router: APIRouter, api: DatasetApi) -> None:
    gone = problem_errors(401, 403, 404, 422, 503)

    @router.patch("/pairs/{id}", summary="Correct a pair's score, or mark it as checked", responses=gone)
    async def change(id: PairId, review: Review) -> PairInfo:
        with api.parts() as parts:
            pair, version = await parts.dataset.run(
                lambda dataset: (dataset.review(id, review.score, review.checked), dataset.cosine_version())
            )
            if pair is None:
                raise _gone(id)
            return _info(pair, version)

    @router.delete("/pairs/{id}", summary="Delete one pair", responses=gone)
    async def remove(id: PairId) -> Deleted:
        with api.parts() as parts:
            hashes = await parts.dataset.run(lambda dataset: dataset.remove([id]))
            if not hashes:
                raise _gone(id)
            await forget(parts.writer, hashes)
            return Deleted(deleted=len(hashes))


def _gone(id_: int) -> Problem:
    detail = f"There is no pair {id_} any more: it was deleted, or has another id with another score. Ask GET /pairs."
    return Problem(404, "No such pair", detail)


async def _lines(
    parts: Parts, wanted: PairFilter, order: Order, after: Position | None, most: int | None
) -> AsyncIterator[str]:
    """Everything that is selected, in portions, between which all else goes on."""
    left = LARGEST_ID if most is None else most
    while left > 0:
        size, here = min(left, PORTION), after
        page, version = await parts.dataset.run_beside(
            lambda dataset: (dataset.page(wanted, order, size, here), dataset.cosine_version())  # noqa: B023
        )
        if page.pairs:
            infos = (_info(pair, version).model_dump(mode="json") for pair in page.pairs)
            yield "".join(json.dumps(info, ensure_ascii=False) + "\n" for info in infos)
        if page.next is None:
            return
        left, after = left - len(page.pairs), page.next


def _cursor(position: Position | None, order: Order) -> str | None:
    if position is None:
        return None
    return f"{position.id}_{position.surprise!r}" if order == "surprise" else str(position.id)


def _info(pair: BrowsedPair, version: str | None) -> PairInfo:
    facts = pair._asdict() | {"collected": datetime.fromtimestamp(pair.collected, UTC)}
    return PairInfo(**facts, version=None if pair.cosine is None else version)
