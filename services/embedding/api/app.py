"""The service's HTTP app: several protocols over one embedding service, and the tasks that live as long as the app."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.embedding.api import admin, batches, cohere, compare, ollama, openai, tei
from services.embedding.api.errors import add_error_handlers, render
from services.embedding.metrics import Metrics
from services.embedding.serving.batch_runner import BatchRunner
from services.embedding.serving.batch_store import BatchStore
from services.embedding.serving.batcher import Batcher
from services.embedding.serving.loading import LoadModel, VersionLoader
from services.embedding.serving.registry import VersionRegistry
from services.embedding.serving.service import EmbeddingService
from services.embedding.serving.tokens import TokenService
from services.embedding.settings import EmbeddingSettings
from shared.heartbeat import Heartbeats
from shared.http.app import create_app
from shared.http.middleware import KeySet
from shared.model_store import ModelStore
from shared.redis import command_client
from shared.settings import Settings

log = logging.getLogger(__name__)


def assemble(settings: Settings, own: EmbeddingSettings, load_model: LoadModel) -> FastAPI:
    """The app with all its parts. Nothing runs before its lifespan starts; requests in flight end before it does."""
    metrics = Metrics(CollectorRegistry())
    versions = VersionRegistry(VersionLoader(ModelStore(settings.models_dir), load_model, metrics), own, metrics)
    batcher = Batcher(own, metrics)
    store = BatchStore(settings.batches_dir, own.batches_mib * 1024 * 1024, own.keep_batches_hours * 3600)
    runner = BatchRunner(store, versions, batcher, metrics)
    # Serving needs no Redis: where there is one, a new version is heard of before the next poll.
    heartbeats = Heartbeats(command_client(settings.redis_url), settings.dataset) if settings.redis_url else None
    failures: dict[str, str] = {}

    def check_end(task: asyncio.Task[None]) -> None:
        """A bug of ours ended a part that lives as long as the app: `/readyz` says so, so that we are started again."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("%s ended", task.get_name(), exc_info=error)
            failures[task.get_name()] = "ended by an error of ours; see the log"

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        parts = {"versions": versions.watch(), "batcher": batcher.run(), "batches": runner.run()}
        if heartbeats is not None:
            parts["hints"] = heartbeats.listen(versions.wake)
        tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
        for task in tasks:
            task.add_done_callback(check_end)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def checks() -> dict[str, str]:
        return {"version": versions.state()} | failures

    app = create_app(
        title="Pairwright embedding",
        description="Text in, vectors out, always from the current version.",
        checks=checks,
        # An admin key opens the other routes too.
        keys=[*settings.keys, *own.admins] if settings.keys else [],
        registry=metrics.registry,
        max_body_bytes=own.max_body_bytes,
        streamed=(batches.PATH,),
        cors_origins=own.origins,
        has_index=False,
        console=settings.service_urls,
        render=render,
        lifespan=lifespan,
        strict_content_type=False,
    )
    add_error_handlers(app)
    service = EmbeddingService(versions, batcher, own, metrics)
    app.include_router(tei.router(service, TokenService(service, batcher), own))
    for protocol in (openai, ollama, cohere, compare):
        app.include_router(protocol.router(service))
    app.include_router(batches.router(store, runner, versions, own))
    app.include_router(admin.router(versions, KeySet(own.admins or settings.keys)))
    return app
