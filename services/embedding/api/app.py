"""The service's HTTP app: three protocols over one embedding service, and the tasks that live as long as the app."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI

from services.embedding.api import admin, openai, tei
from services.embedding.api.errors import add_error_handlers, render
from services.embedding.metrics import Metrics
from services.embedding.serving.batcher import Batcher
from services.embedding.serving.registry import VersionRegistry
from services.embedding.serving.service import EmbeddingService
from services.embedding.settings import EmbeddingSettings
from shared.http.app import create_app
from shared.http.middleware import KeySet

log = logging.getLogger(__name__)

DESCRIPTION = "Text in, vectors out, always from the current version."


def build_app(
    settings: EmbeddingSettings,
    versions: VersionRegistry,
    batcher: Batcher,
    *,
    keys: Sequence[str],
    metrics: Metrics,
    code_version: str,
    listen: Callable[[Callable[[], None]], Coroutine[Any, Any, None]] | None = None,
) -> FastAPI:
    """The app. Its lifespan runs the version watcher and the batcher; requests in flight end before they do.

    `listen` calls its argument whenever a version was announced: only a hint, the pointers are polled too.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(versions.watch(), name="versions"),
            asyncio.create_task(batcher.run(), name="batcher"),
        ]
        if listen is not None:
            tasks.append(asyncio.create_task(listen(versions.wake), name="hints"))
        for task in tasks:
            task.add_done_callback(_check_end)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    failures: dict[str, str] = {}

    def _check_end(task: asyncio.Task[None]) -> None:
        """A bug of ours ended a part that lives as long as the app: `/readyz` says so, so that we are started again."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("%s ended", task.get_name(), exc_info=error)
            failures[task.get_name()] = "ended by an error of ours; see the log"

    async def checks() -> dict[str, str]:
        return {"version": versions.state()} | failures

    app = create_app(
        title="Pairwright embedding",
        description=DESCRIPTION,
        version=code_version,
        checks=checks,
        # An admin key opens the other routes too.
        keys=[*keys, *settings.admins] if keys else [],
        registry=metrics.registry,
        max_body_bytes=settings.max_body_bytes,
        cors_origins=settings.origins,
        render=render,
        lifespan=lifespan,
        strict_content_type=False,
    )
    add_error_handlers(app)
    service = EmbeddingService(versions, batcher, metrics, settings.max_client_inputs, settings.request_seconds)
    app.include_router(tei.router(service, versions, settings, metrics, code_version))
    app.include_router(openai.router(service, versions, metrics))
    app.include_router(admin.router(versions, KeySet(settings.admins or keys)))
    return app
