"""The HTTP interface of the generation service: jobs that write pairs, and the tasks that may be asked for."""

import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.generation.engine import Engine
from services.generation.generator import Plan
from services.generation.jobs import Job, JobStore
from services.generation.runner import JobRunner, KeyReused, TooManyJobs
from services.generation.settings import GenerationSettings
from services.generation.tasks import Tasks, TaskSpec, UnknownTask
from shared.http import Problem, create_app, problem_details
from shared.stream import PairStream

MAX_WAIT_S = 3600.0
SSE_SILENCE_S = 15.0
DESCRIPTION = "Labelled sentence pairs from a language model, by DINO's instructions and self-debiasing decoding."


def create_generation_app(
    *,
    engine: Engine,
    runner: JobRunner,
    store: JobStore,
    stream: PairStream,
    redis: Redis,
    tasks: Tasks,
    settings: GenerationSettings,
    keys: tuple[str, ...],
    registry: CollectorRegistry,
) -> FastAPI:
    """The app; the parts are started and stopped by the caller."""

    async def checks() -> dict[str, str]:
        return {"engine": engine.state, "redis": await _redis_state(redis)}

    app = create_app(
        title="Pairwright generation",
        description=DESCRIPTION,
        checks=checks,
        keys=keys,
        registry=registry,
        max_body_bytes=settings.max_body_bytes,
    )
    desk = Desk(runner, store, stream, tasks, settings)
    _add_job_routes(app, desk)
    _add_watching_routes(app, desk)

    @app.exception_handler(RedisError)
    async def redis_lost(request: Request, _error: RedisError) -> Response:
        detail = "Redis does not answer; nothing was lost. Try again shortly."
        return problem_details(request, Problem(503, "Queue unavailable", detail, {"Retry-After": "2"}))

    @app.get("/tasks", summary="The tasks that may be asked for, each with its labels and instructions")
    async def list_tasks() -> list[dict[str, Any]]:
        return [_task_view(task) for task in tasks]

    return app


class Desk:
    """Takes requests for jobs: refuses at the door what could not be done."""

    def __init__(
        self, runner: JobRunner, store: JobStore, stream: PairStream, tasks: Tasks, settings: GenerationSettings
    ) -> None:
        self.runner, self.store = runner, store
        self._stream, self._tasks, self._settings = stream, tasks, settings

    async def submit(self, plan: Plan, key: str | None) -> Job:
        """A durable, queued job; the same one for the same key. Raises `Problem`."""
        task = self._checked(plan)
        try:
            # Half of the stream is kept for the jobs that run already.
            if await self._stream.backlog() >= max(1, self._stream.limit // 2):
                raise _busy("The trainer is behind: the pair stream is half full.")
            return await self.runner.submit(plan, task, key)
        except TooManyJobs:
            raise _busy(f"{self.runner.open_jobs} jobs are open already.") from None
        except KeyReused:
            raise _wrong("Idempotency-Key", "another request was sent with this key; use a new one") from None

    async def job(self, job_id: str) -> Job:
        """The job of this id. Raises `Problem` 404."""
        job = await self.runner.get(job_id) if re.fullmatch(r"[0-9a-f]{32}", job_id) else None
        if job is None:
            raise Problem(404, "No such job", f"There is no job {job_id[:64]!r}; finished jobs are kept for a week.")
        return job

    def _checked(self, plan: Plan) -> TaskSpec:
        try:
            task = self._tasks.get(plan.task)
        except UnknownTask as error:
            raise _wrong("task", f"{error}") from None
        try:
            requested = plan.pairs_requested(task)
        except KeyError as error:
            known = ", ".join(task.labels)
            raise _wrong("labels", f"task {plan.task!r} has no label {error.args[0]!r}; it has {known}") from None
        limit = self._settings.max_pairs_per_job
        if requested > limit:
            raise _wrong("pairs_per_label", f"this asks for {requested} pairs; a job may ask for {limit}")
        return task


def _add_job_routes(app: FastAPI, desk: Desk) -> None:
    @app.post("/generate", status_code=202, summary="Write labelled pairs and put them into the stream")
    async def generate(
        plan: Plan,
        prefer: Annotated[str | None, Header(description="`wait=SECONDS` answers when done")] = None,
        idempotency_key: Annotated[
            str | None, Header(description="The same key and body find the same job", min_length=1, max_length=255)
        ] = None,
    ) -> Response:
        seconds = wait_seconds(prefer)
        job = await desk.submit(plan, idempotency_key)
        headers = {"Location": f"/jobs/{job.id}"}
        if seconds is not None:
            headers["Preference-Applied"] = f"wait={seconds:g}"
            await desk.runner.wait(job, seconds)
        if not job.done:
            return JSONResponse(job.view(), 202, headers | {"Retry-After": "2"})
        pairs = [pair async for _, record in desk.store.records(job) for pair in record["pairs"]]
        return JSONResponse(job.view() | {"pairs": pairs}, 200, headers)

    @app.get("/jobs", summary="The newest jobs, a line each")
    async def newest(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[dict[str, Any]]:
        return await desk.store.newest(limit)

    @app.get("/jobs/{job_id}", summary="A job's state and counts")
    async def show(job: Annotated[Job, Depends(desk.job)]) -> JSONResponse:
        return JSONResponse(job.view())

    @app.delete("/jobs/{job_id}", summary="Cancel a job; its accepted pairs stay")
    async def cancel(job: Annotated[Job, Depends(desk.job)]) -> JSONResponse:
        await desk.runner.cancel(job)
        return JSONResponse(job.view())


def _add_watching_routes(app: FastAPI, desk: Desk) -> None:
    @app.get("/jobs/{job_id}/pairs", summary="The accepted pairs so far, as JSON Lines")
    async def pairs(job: Annotated[Job, Depends(desk.job)]) -> StreamingResponse:
        return StreamingResponse(_pair_lines(desk.store, job), media_type="application/jsonl")

    @app.get("/jobs/{job_id}/events", response_class=EventSourceResponse, summary="Progress as server-sent events")
    async def events(job: Annotated[Job, Depends(desk.job)]) -> AsyncIterator[ServerSentEvent]:
        async for event in _progress(desk.runner, job):
            yield event


async def _progress(runner: JobRunner, job: Job) -> AsyncIterator[ServerSentEvent]:
    """`progress` events with the job and its newest pair, then one `done`."""
    shown: dict[str, Any] | None = None
    while True:
        done = job.done  # read before the view: the last event must show the end
        view = job.view() | {"latest": job.latest}
        if done or view["accepted"] != (shown or {}).get("accepted") or view["waiting_for"]:
            yield ServerSentEvent(event="done" if done else "progress", data=view)
            shown = view
        if done:
            return
        await runner.next_change(SSE_SILENCE_S)
        # Right after a restart the job at hand may be a copy from Redis: the resumed one is what changes.
        job = await runner.get(job.id) or job


async def _pair_lines(store: JobStore, job: Job) -> AsyncIterator[str]:
    async for _, record in store.records(job):
        for pair in record["pairs"]:
            yield json.dumps(pair, ensure_ascii=False) + "\n"


def wait_seconds(prefer: str | None) -> float | None:
    """The seconds of `Prefer: wait=N`; None without it. RFC 7240 says to ignore whatever else the header holds."""
    found = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d+(?:\.\d+)?)", prefer or "", re.IGNORECASE)
    return min(float(found[1]), MAX_WAIT_S) if found else None


async def _redis_state(redis: Redis) -> str:
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        return f"down: {error}"
    return "ok"


def _task_view(task: TaskSpec) -> dict[str, Any]:
    labels = {
        name: {
            "score": label.score,
            "instruction": label.instruction,
            "counter_labels": label.counter_labels,
            "exemplars": label.exemplars,
        }
        for name, label in task.labels.items()
    }
    return {"task": task.task_name, "labels": labels}


def _wrong(field: str, message: str) -> Problem:
    return Problem(422, "Invalid request", f"{field}: {message}", errors=[{"field": field, "message": message}])


def _busy(detail: str) -> Problem:
    return Problem(429, "Too many requests", f"{detail} Try again later.", {"Retry-After": "10"})
