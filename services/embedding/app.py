"""The service's HTTP app: three protocols over one embedder, and the two tasks that live as long as the app."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from starlette.requests import ClientDisconnect

from services.embedding import catalogue, openai, tei
from services.embedding.batcher import Batcher
from services.embedding.embedder import Embedder
from services.embedding.errors import render
from services.embedding.settings import EmbeddingSettings
from services.embedding.versions import Versions
from shared.http import create_app

DESCRIPTION = "Text in, vectors out, always from the current version."
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a caller who left: nobody reads it, but logs and metrics tell it from a fault of ours."""


def build_app(
    settings: EmbeddingSettings,
    versions: Versions,
    batcher: Batcher,
    *,
    keys: Sequence[str],
    registry: CollectorRegistry,
    code_version: str,
) -> FastAPI:
    """The app. Its lifespan runs the version watcher and the batcher; requests in flight end before they do."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(versions.watch()), asyncio.create_task(batcher.run())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def checks() -> dict[str, str]:
        return {"version": versions.state()}

    app = create_app(
        title="Pairwright embedding",
        description=DESCRIPTION,
        version=code_version,
        checks=checks,
        keys=keys,
        registry=registry,
        max_body_bytes=settings.max_body_bytes,
        render=render,
        lifespan=lifespan,
        strict_content_type=False,
    )

    @app.exception_handler(ClientDisconnect)
    async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    embedder = Embedder(versions, batcher, settings.max_client_inputs)
    app.include_router(tei.router(embedder, settings, code_version))
    app.include_router(openai.router(embedder, versions))
    app.include_router(catalogue.router(versions))
    return app
