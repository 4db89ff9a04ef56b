"""`python -m services.generation`: settings -> engine -> generator -> jobs -> app -> uvicorn; or `... generate`."""

import asyncio
import logging
import socket
import sys
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.generation.api import document_files
from services.generation.api.app import create_generation_app
from services.generation.api.documents import DocumentsApi
from services.generation.commands.generate import main as generate
from services.generation.decoding.base import Engine
from services.generation.decoding.factory import make_engine, start_engine
from services.generation.documents.adding import add_documents
from services.generation.jobs.scheduler import JobScheduler
from services.generation.jobs.store import JobStore
from services.generation.jobs.worker import JobContext
from services.generation.metrics import Metrics
from services.generation.pairs.corpus_source import CorpusSource
from services.generation.pairs.generator import PairGenerator
from services.generation.pairs.tasks import Tasks, load_all_tasks
from services.generation.reranking import Reranker, StudentCosines
from services.generation.settings import GenerationSettings
from shared import tracing
from shared.errors import Fatal
from shared.heartbeat import Heartbeats
from shared.http.server import Server, listen
from shared.process import configure_logging, run
from shared.queue import open_queue
from shared.redis import command_client
from shared.settings import Settings, load
from shared.stream import PairStream

log = logging.getLogger("services.generation")


async def main() -> None:
    """Serve until SIGTERM or until the engine dies."""
    common, own = load(Settings), load(GenerationSettings)
    configure_logging(common.log_level, common.log_format, "generation")
    tasks = load_all_tasks(own.task_dir)
    listener = listen(own.host, own.port, "PAIRWRIGHT_GENERATION_PORT")
    with listener, open_queue(common.redis_url, common.queue_dir) as url:
        redis = command_client(url)
        engine = await make_engine(common, own)
        stop_tracing = tracing.start("generation")
        app, scheduler = assemble(common, own, engine, redis, tasks)
        log.info("listening on http://%s:%d, teacher %s", own.host, own.port, common.teacher)
        try:
            web = Server(tracing.traced(app), own.drain_seconds, keep_alive_s=common.keep_alive_seconds)
            await _serve(web, listener, engine, scheduler, own.drain_seconds)
        finally:
            stop_tracing()
        await redis.aclose()


def assemble(
    common: Settings, own: GenerationSettings, engine: Engine, redis: Redis, tasks: Tasks
) -> tuple[FastAPI, JobScheduler]:
    """The app and the jobs behind it, around an engine and a Redis."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, {task.task_name: task.labels.keys() for task in tasks.values()})
    metrics.lanes.set_function(lambda: engine.lanes_running)
    metrics.replayed.set_function(lambda: engine.replays)
    metrics.engine_ready.set_function(lambda: engine.state == "ok")
    metrics.tokens.set_function(lambda: engine.tokens_drawn)
    stream = PairStream(redis, common.dataset, own.max_backlog)
    store = JobStore(redis, common.dataset, keep_s=own.keep_jobs_hours * 3600)
    passages = CorpusSource(common.trainer_url, common.keys)
    context = JobContext(PairGenerator(engine), store, stream, passages, metrics, common.dataset, common.teacher)
    heartbeats = Heartbeats(redis, common.dataset)
    scheduler = JobScheduler(context, heartbeats, max_open=own.max_open_jobs, max_running=own.max_running_jobs)
    student = StudentCosines(own.embedding_url, common.keys) if own.embedding_url else None
    reranker = Reranker(engine, metrics, own.max_queue_texts, student)
    app = create_generation_app(
        engine, scheduler, reranker, redis, tasks, own, common.keys, registry, common.teacher, common.service_urls
    )
    documents = DocumentsApi(common, own, stream)
    app.include_router(documents.router)
    app.include_router(document_files.router(documents))
    return app, scheduler


async def _serve(web: Server, listener: socket.socket, engine: Engine, scheduler: JobScheduler, drain_s: float) -> None:
    """Answer from the start (`/readyz` says "starting"), run jobs once the engine is up; end with either of them."""
    serving = asyncio.create_task(web.serve(sockets=[listener]))
    background = asyncio.create_task(_run_jobs(engine, scheduler))
    await asyncio.wait([serving, background], return_when=asyncio.FIRST_COMPLETED)
    web.should_exit = True
    background.cancel()
    await scheduler.stop(within_s=drain_s)
    await asyncio.gather(serving, return_exceptions=True)
    error = None if background.cancelled() else (await asyncio.gather(background, return_exceptions=True))[0]
    engine.stop()
    if isinstance(error, Exception):
        raise error


async def _run_jobs(engine: Engine, scheduler: JobScheduler) -> None:
    """Start the engine and run open jobs on it. Raises `Fatal` when it can't start or dies."""
    helpers: list[asyncio.Task[Any]] = [asyncio.create_task(scheduler.post_heartbeats())]
    try:
        await start_engine(engine)
        helpers.append(asyncio.create_task(scheduler.run()))
        helpers.append(died := asyncio.create_task(scheduler.engine_died.wait()))
        done, _ = await asyncio.wait(helpers, return_when=asyncio.FIRST_COMPLETED)
        if died not in done:
            await asyncio.gather(*done)  # a bug of ours ends the process, rather than a service that runs no jobs
    finally:
        for helper in helpers:
            helper.cancel()
    raise Fatal(f"the engine died ({engine.state}); open jobs resume at the next start")


if __name__ == "__main__":
    run("generation", generate(sys.argv[1:], add_documents) if len(sys.argv) > 1 else main())
