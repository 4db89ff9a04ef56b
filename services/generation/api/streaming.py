"""Watching a job: its pairs as JSON Lines, and its progress as server-sent events that can be taken up again."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.generation.api.admission import JobAdmission
from services.generation.jobs.records import Record, shown
from services.generation.jobs.store import JobStore, Status
from services.generation.pairs.dino_postprocess import RawPair, dino_dataset
from shared.http.problems import Problem

SILENCE_S = 15.0
POLL_S = 0.5


def router(desk: JobAdmission, store: JobStore) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/jobs/{job_id}/pairs", summary="The accepted pairs so far, as JSON Lines; gzip where it is accepted")
    async def pairs(
        job: Annotated[Status, Depends(desk.job)],
        postprocess: Annotated[
            Literal["none", "dino"],
            Query(
                description="`dino`: smoothed scores and random pairs, as the original's script; the job must be done"
            ),
        ] = "none",
    ) -> StreamingResponse:
        if postprocess == "dino":
            if not job.done:
                detail = "Random pairs are drawn from all pairs of a job: wait until it is done."
                raise Problem(409, "The job is not done", detail, {"Retry-After": "10"})
            lines = await _dino_lines(store, job)
        else:
            lines = _pair_lines(store, job)
        return StreamingResponse(lines, media_type="application/jsonl")

    @routes.get(
        "/jobs/{job_id}/events",
        response_class=EventSourceResponse,
        summary="Progress as server-sent events; an event's id is the number of first sentences that are done",
    )
    async def events(
        job: Annotated[Status, Depends(desk.job)],
        pairs: Annotated[bool, Query(description="Also an event `pairs` with each first sentence's new pairs")] = False,
        last_event_id: Annotated[int | None, Header(ge=0, description="Go on after this event")] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in _progress(desk, store, job, pairs, last_event_id):
            yield event

    return routes


async def _progress(
    desk: JobAdmission, store: JobStore, job: Status, with_pairs: bool, after: int | None
) -> AsyncIterator[ServerSentEvent]:
    """`progress` events with the job and one of its newest pairs, then one `done`; `pairs` in between, if asked for.

    Ids count recorded units, whose order never changes: whoever comes back with `Last-Event-ID` misses no pair and
    gets none twice.
    """
    latest, last = None, ""
    # Without pairs only the newest record matters.
    sent = (after or 0) if with_pairs else max(after or 0, job.recorded - 1)
    while True:
        async for record in store.records(job.id, sent):
            sent += 1
            latest = _one_of(record, sent) or latest
            if with_pairs and record["pairs"]:
                yield ServerSentEvent(event="pairs", id=str(sent), data=[shown(pair) for pair in record["pairs"]])
        view = job.view()
        told = json.dumps([view[key] for key in ("state", "units_done", "accepted", "rejected", "waiting_for")])
        if told != last or job.done:
            last = told
            kind = "done" if job.done else "progress"
            yield ServerSentEvent(event=kind, id=str(sent), data=view | {"latest": latest})
        if job.done:
            return
        await desk.runner.next_change(POLL_S)
        # The state first, the records after it: the last event must come after the last pairs.
        job = await desk.runner.status(job.id) or job


def _one_of(record: Record, turn: int) -> dict[str, Any] | None:
    """One of a unit's pairs, the labels in turn."""
    pairs = record["pairs"]
    return shown(pairs[turn % len(pairs)]) if pairs else None


async def _pair_lines(store: JobStore, job: Status) -> AsyncIterator[str]:
    async for record in store.records(job.id):
        for pair in record["pairs"]:
            yield json.dumps(shown(pair), ensure_ascii=False) + "\n"


async def _dino_lines(store: JobStore, job: Status) -> AsyncIterator[str]:
    plan = await store.plan(job.id)
    raw = [
        RawPair(pair["sentence1"], pair["sentence2"], pair["score"])
        async for record in store.records(job.id)
        for pair in record["pairs"]
    ]
    finished = dino_dataset(raw, seed=plan.seed if plan else 42)

    async def lines() -> AsyncIterator[str]:
        for pair in finished:
            yield json.dumps(pair._asdict(), ensure_ascii=False) + "\n"

    return lines()
