"""Streaming a job: its pairs as JSON Lines, and its progress as server-sent events that can be taken up again."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.generation.api.admission import JobAdmission
from services.generation.jobs.status import Status
from services.generation.pairs.dino_postprocess import dino_dataset
from services.generation.pairs.work_item import public_pairs, public_rejected
from shared.http.problems import Problem

POLL_S = 0.5
JSON_LINES = "application/jsonl"
PROGRESS = ("state", "work_items_done", "accepted", "rejected", "waiting_for")
"""What makes a new event of progress when it changes."""


def router(admission: JobAdmission) -> APIRouter:
    """The routes."""
    routes, store = APIRouter(), admission.store

    @routes.get("/jobs/{job_id}/pairs", summary="The accepted pairs so far, as JSON Lines; gzip where it is accepted")
    async def pairs(
        job: Annotated[Status, Depends(admission.job)],
        postprocess: Annotated[
            Literal["none", "dino"],
            Query(
                description="`dino`: smoothed scores and random pairs, as the original's script; the job must be done"
            ),
        ] = "none",
    ) -> StreamingResponse:
        pairs = (pair async for result in store.results(job.id) for pair in public_pairs([result]))
        if postprocess == "none":
            return StreamingResponse((_line(pair) async for pair in pairs), media_type=JSON_LINES)
        if not job.done:
            detail = "Random pairs are drawn from all pairs of a job: wait until it is done."
            raise Problem(409, "The job is not done", detail, {"Retry-After": "10"})
        plan = await store.plan(job.id)
        finished = dino_dataset([pair async for pair in pairs], plan.seed if plan else 42)
        return StreamingResponse(map(_line, finished), media_type=JSON_LINES)

    @routes.get(
        "/jobs/{job_id}/rejected",
        summary="Rejected sentences with their reasons, as JSON Lines: the first 100 of each reason",
    )
    async def rejected(
        job: Annotated[Status, Depends(admission.job)],
        reason: Annotated[str | None, Query(description="Only those of this filter")] = None,
    ) -> StreamingResponse:
        lines = (
            _line(row)
            async for result in store.results(job.id)
            for row in public_rejected([result])
            if reason in (None, row["reason"])
        )
        return StreamingResponse(lines, media_type=JSON_LINES)

    @routes.get(
        "/jobs/{job_id}/events",
        response_class=EventSourceResponse,
        summary="Progress as server-sent events; an event's id is the number of first sentences that are done",
    )
    async def events(
        job: Annotated[Status, Depends(admission.job)],
        pairs: Annotated[bool, Query(description="Also an event `pairs` with each first sentence's new pairs")] = False,
        last_event_id: Annotated[int | None, Header(ge=0, description="Go on after this event")] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in _events(admission, job, pairs, last_event_id):
            yield event

    return routes


async def _events(
    admission: JobAdmission, job: Status, with_pairs: bool, after: int | None
) -> AsyncIterator[ServerSentEvent]:
    """`progress` events with the job and one of its newest pairs, then one `done`; `pairs` in between, if asked for.

    Ids count recorded work items, whose order never changes: whoever comes back with `Last-Event-ID` misses no pair and
    gets none twice.
    """
    latest: dict[str, Any] | None = None
    last: list[Any] = []
    # Without pairs only the newest result matters.
    sent = (after or 0) if with_pairs else max(after or 0, job.recorded - 1)
    while True:
        async for result in admission.store.results(job.id, sent):
            sent += 1
            if new := public_pairs([result]):
                latest = new[sent % len(new)]  # the labels in turn
                if with_pairs:
                    yield ServerSentEvent(event="pairs", id=str(sent), data=new)
        resource = job.to_json()
        progress = [resource[name] for name in PROGRESS]
        if progress != last or job.done:
            last = progress
            kind = "done" if job.done else "progress"
            yield ServerSentEvent(event=kind, id=str(sent), data=resource | {"latest": latest})
        if job.done:
            return
        await admission.scheduler.next_change(POLL_S)
        # The state first, the results after it: the last event must come after the last pairs.
        job = await admission.scheduler.status(job.id) or job


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
