"""The trainer's `/metrics`, `/livez` and `/readyz`, on the worker's event loop."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from services.trainer.metrics import Metrics
from shared.errors import Fatal
from shared.http.app import create_app
from shared.http.server import Server, listen

log = logging.getLogger(__name__)

DRAIN_S = 1.0
MAX_BODY_BYTES = 1024


@contextlib.asynccontextmanager
async def health_server(host: str, port: int, metrics: Metrics) -> AsyncIterator[None]:
    """Answer until the block ends. Port 0 answers nowhere.

    A port that can't be had is a warning: a second trainer may wait on the same machine, and collecting matters more
    than the endpoint.
    """
    try:
        listener = listen(host, port, "PAIRWRIGHT_TRAINER_PORT (0: none)") if port else None
    except Fatal as fatal:
        log.warning("no metrics: %s", fatal)
        listener = None
    if listener is None:
        yield
        return

    async def checks() -> dict[str, str]:
        return metrics.states

    app = create_app(
        title="Pairwright trainer", description="What the trainer does and whether it can work.", checks=checks,
        keys=(), registry=metrics.registry, max_body_bytes=MAX_BODY_BYTES, docs_url=None, openapi_url=None,
    )  # fmt: skip
    http = Server(app, DRAIN_S, handles_signals=False)
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    try:
        yield
    finally:
        http.should_exit = True
        await serving
