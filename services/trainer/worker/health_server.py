"""The trainer's HTTP, on the worker's event loop: `/metrics`, `/livez`, `/readyz`, and what routers add."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence

from fastapi import APIRouter, FastAPI

from services.trainer.metrics import Metrics
from shared.errors import Fatal
from shared.http.app import Checks, create_app
from shared.http.server import Server, listen

log = logging.getLogger(__name__)

ABOUT = (
    "The dataset's pairs, documents, rounds and versions: read, corrected, deleted, started. Its health and metrics."
)


def trainer_app(
    metrics: Metrics,
    checks: Checks,
    keys: Sequence[str],
    routers: Sequence[APIRouter],
    console: Mapping[str, str] | None = None,
) -> FastAPI:
    """The app; `checks` and `console` as in `create_app`."""
    app = create_app(
        title="Pairwright trainer",
        description=ABOUT,
        checks=checks,
        keys=keys,
        registry=metrics.registry,
        max_body_bytes=1024,
        console=console,
    )
    for router in routers:
        app.include_router(router)
    return app


@contextlib.asynccontextmanager
async def health_server(
    host: str,
    port: int,
    metrics: Metrics,
    keys: Sequence[str] = (),
    routers: Sequence[APIRouter] = (),
    console: Mapping[str, str] | None = None,
) -> AsyncIterator[None]:
    """Answer until the block ends; the routers only to `keys`, if there are any.

    `console`: see `create_app`. Port 0 answers nowhere, and a port that can't be had is a warning.
    """
    try:
        listener = listen(host, port, "PAIRWRIGHT_TRAINER_PORT (0: none)") if port else None
    except Fatal as fatal:  # a second trainer may wait on the same machine; collecting matters more than the endpoint
        log.warning("no metrics: %s", fatal)
        listener = None
    if listener is None:
        yield
        return

    async def checks() -> dict[str, str]:
        return metrics.states

    app = trainer_app(metrics, checks, keys, routers, console)
    http = Server(app, drain_s=1.0, handles_signals=False)
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    try:
        yield
    finally:
        http.should_exit = True
        await serving
