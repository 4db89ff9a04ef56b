"""The HTTP interface of the generation service: jobs that write pairs, and the tasks that may be asked for."""

import re
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.middleware.gzip import GZipMiddleware

from services.generation.api import streaming
from services.generation.api.admission import JobAdmission
from services.generation.decoding.base import Engine
from services.generation.jobs.records import shown
from services.generation.jobs.scheduler import JobScheduler
from services.generation.jobs.store import JobStore, Status
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import Tasks, TaskSpec
from services.generation.settings import GenerationSettings
from shared.http.app import create_app
from shared.http.problems import Problem, problem_details
from shared.stream import PairStream

MAX_WAIT_S = 3600.0
DESCRIPTION = "Labelled sentence pairs from a language model, by DINO's instructions and self-debiasing decoding."


def create_generation_app(
    *,
    engine: Engine,
    runner: JobScheduler,
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
    app.add_middleware(GZipMiddleware, minimum_size=1024)  # it lets server-sent events pass
    desk = JobAdmission(runner, stream, tasks, settings)
    _add_job_routes(app, desk, store)
    app.include_router(streaming.router(desk, store))

    @app.exception_handler(RedisError)
    async def redis_lost(request: Request, _error: RedisError) -> Response:
        detail = "Redis does not answer; nothing was lost. Try again shortly."
        return problem_details(request, Problem(503, "Queue unavailable", detail, {"Retry-After": "2"}))

    @app.get("/tasks", summary="The tasks that may be asked for, with their labels, instructions and an example each")
    async def list_tasks() -> list[dict[str, Any]]:
        return [_task_view(task) for task in tasks]

    return app


def _add_job_routes(app: FastAPI, desk: JobAdmission, store: JobStore) -> None:
    @app.post("/generate", status_code=202, summary="Write labelled pairs and put them into the stream")
    async def generate(
        request: Request,
        plan: Plan,
        prefer: Annotated[str | None, Header(description="`wait=SECONDS` answers when done")] = None,
        idempotency_key: Annotated[
            str | None, Header(description="The same key and body find the same job", min_length=1, max_length=255)
        ] = None,
    ) -> Response:
        seconds = wait_seconds(prefer)
        job = await desk.submit(plan, idempotency_key, request.state.request_id)
        headers = {"Location": f"/jobs/{job.id}"}
        if seconds is not None:
            headers["Preference-Applied"] = f"wait={seconds:g}"
            await desk.runner.wait(job.id, seconds)
            job = await desk.job(job.id)
        if not job.done:
            return JSONResponse(job.view(), 202, headers | {"Retry-After": "2"})
        pairs = [shown(pair) async for record in store.records(job.id) for pair in record["pairs"]]
        return JSONResponse(job.view() | {"pairs": pairs}, 200, headers)

    @app.get("/jobs", summary="The newest jobs")
    async def newest(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[dict[str, Any]]:
        return await store.newest(limit)

    @app.get("/jobs/{job_id}", summary="A job's state and counts")
    async def show(job: Annotated[Status, Depends(desk.job)]) -> JSONResponse:
        return JSONResponse(job.view())

    @app.delete("/jobs/{job_id}", summary="Cancel a job; its accepted pairs stay")
    async def cancel(job: Annotated[Status, Depends(desk.job)]) -> JSONResponse:
        await desk.runner.cancel(job)
        return JSONResponse((await desk.job(job.id)).view())


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
    view: dict[str, Any] = {"task": task.task_name, **task.model_dump(exclude={"task_name"})}
    view["writes"] = "pairs" if task.writes_pairs else "first sentences"
    first = next((label.exemplars[0] for label in task.labels.values() if label.exemplars), None)
    if task.writes_pairs:
        sentence1 = first.sentence1 if first else "A man is repairing a bicycle."
        view["example"] = {
            "request": {"task": task.task_name, "inputs": [sentence1]},
            "pairs": [
                {"sentence1": label.exemplars[0].sentence1, "sentence2": label.exemplars[0].sentence2}
                | {"score": label.score, "label": name}
                for name, label in task.labels.items()
                if label.exemplars
            ],
        }
    return view
