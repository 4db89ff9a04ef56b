"""The HTTP interface of the generation service: jobs that write pairs, and the tasks that may be asked for."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.middleware.gzip import GZipMiddleware

from services.generation.api import documents, rerank, streaming
from services.generation.api.admission import JobAdmission
from services.generation.decoding.base import Engine
from services.generation.jobs.scheduler import JobScheduler
from services.generation.jobs.status import Status
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import Tasks, TaskSpec
from services.generation.pairs.work_item import public_pairs
from services.generation.reranking import Reranker
from services.generation.settings import GenerationSettings
from shared.http.app import create_app
from shared.http.problems import Problem, problem_details

MAX_WAIT_S = 3600.0
DESCRIPTION = "Labelled sentence pairs from a language model, by DINO's instructions and self-debiasing decoding."


def create_generation_app(
    engine: Engine,
    scheduler: JobScheduler,
    reranker: Reranker,
    redis: Redis,
    tasks: Tasks,
    settings: GenerationSettings,
    keys: tuple[str, ...],
    registry: CollectorRegistry,
    teacher: str = "default",
    console: Mapping[str, str] | None = None,
) -> FastAPI:
    """The app; the parts are started and stopped by the caller. `console`: see `create_app`."""

    async def checks() -> dict[str, str]:
        try:
            await redis.ping()
        except (RedisError, OSError) as error:
            return {"engine": engine.state, "redis": f"down: {error}"}
        return {"engine": engine.state, "redis": "ok"}

    app = create_app(
        title="Pairwright generation",
        description=DESCRIPTION,
        checks=checks,
        keys=keys,
        registry=registry,
        max_body_bytes=settings.max_body_bytes,
        render=rerank.render,
        streamed=(documents.PATH,),
        console=console,
    )
    app.add_middleware(GZipMiddleware, minimum_size=1024)  # it lets server-sent events pass
    admission = JobAdmission(scheduler, tasks, settings, teacher)
    _add_job_routes(app, admission)
    app.include_router(streaming.router(admission))
    app.include_router(rerank.router(reranker, settings))
    rerank.add_error_handlers(app)

    @app.exception_handler(RedisError)
    async def redis_lost(request: Request, _error: RedisError) -> Response:
        detail = "Redis does not answer; nothing was lost. Try again shortly."
        return problem_details(request, Problem(503, "Queue unavailable", detail, {"Retry-After": "2"}))

    @app.get("/tasks", summary="The tasks that may be asked for, with their labels, instructions and an example each")
    async def list_tasks() -> list[dict[str, Any]]:
        return [_task_json(task) for task in tasks.values()]

    return app


def _add_job_routes(app: FastAPI, admission: JobAdmission) -> None:
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
        job = await admission.submit(plan, idempotency_key, request.state.request_id)
        headers = {"Location": f"/jobs/{job.id}"}
        if seconds is not None:
            headers["Preference-Applied"] = f"wait={seconds:g}"
            await admission.scheduler.wait(job.id, seconds)
            job = await admission.job(job.id)
        if not job.done:
            return JSONResponse(job.to_json(), 202, headers | {"Retry-After": "2"})
        pairs = public_pairs([result async for result in admission.store.results(job.id)])
        return JSONResponse(job.to_json() | {"pairs": pairs}, 200, headers)

    @app.get("/jobs", summary="The newest jobs")
    async def newest(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[dict[str, Any]]:
        return [job.to_json() for job in await admission.store.newest(limit)]

    @app.get("/jobs/{job_id}", summary="A job's state and counts")
    async def show(job: Annotated[Status, Depends(admission.job)]) -> JSONResponse:
        return JSONResponse(job.to_json())

    @app.delete("/jobs/{job_id}", summary="Cancel a job; its accepted pairs stay")
    async def cancel(job: Annotated[Status, Depends(admission.job)]) -> JSONResponse:
        await admission.scheduler.cancel(job)
        return JSONResponse((await admission.job(job.id)).to_json())

    @app.post("/jobs/{job_id}/resume", summary="Go on with a cancelled job where it stopped")
    async def resume(job: Annotated[Status, Depends(admission.job)]) -> JSONResponse:
        return JSONResponse((await admission.resume(job)).to_json())


def wait_seconds(prefer: str | None) -> float | None:
    """The seconds of `Prefer: wait=N`; None without it. RFC 7240 says to ignore whatever else the header holds."""
    wait = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d+(?:\.\d+)?)", prefer or "", re.IGNORECASE)
    return min(float(wait[1]), MAX_WAIT_S) if wait else None


def _task_json(task: TaskSpec) -> dict[str, Any]:
    resource: dict[str, Any] = {"task": task.task_name, **task.model_dump(exclude={"task_name"})}
    resource["writes"] = "queries" if task.writes_queries else "pairs" if task.writes_pairs else "first sentences"
    if task.writes_pairs:
        given = (label.exemplars[0][task.writes_queries] for label in task.labels.values() if label.exemplars)
        resource["example"] = {
            "request": {"task": task.task_name, "inputs": [next(given, "A man is repairing a bicycle.")]},
            "pairs": [
                label.exemplars[0]._asdict() | {"score": label.score, "label": name}
                for name, label in task.labels.items()
                if label.exemplars
            ],
        }
    return resource
