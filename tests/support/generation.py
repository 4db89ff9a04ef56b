"""The generation service, live: the real app on a real port over a given engine and queue."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import httpx

from services.generation.__main__ import assemble
from services.generation.decoding.base import Engine
from services.generation.pairs.tasks import load_all_tasks
from services.generation.settings import GenerationSettings
from shared.http.server import Server, listen
from shared.redis import command_client
from shared.settings import Settings


@contextlib.contextmanager
def live_generation(
    engine: Engine, redis_url: str, dataset: str, common: Settings | None = None, **own: Any
) -> Iterator[httpx.Client]:
    """Serve in a thread until the block ends; yields a client of it."""
    common = (common or Settings()).model_copy(update={"dataset": dataset})
    started, web = threading.Event(), []
    listener = listen("127.0.0.1", 0, "PORT")

    async def serve() -> None:
        redis = command_client(redis_url)
        app, scheduler = assemble(common, GenerationSettings(**own), engine, redis, load_all_tasks(None))
        web.append(Server(app, drain_s=2))
        background = [asyncio.create_task(scheduler.post_heartbeats()), asyncio.create_task(scheduler.run())]
        started.set()
        await web[0].serve(sockets=[listener])
        for task in background:
            task.cancel()
        await scheduler.stop(within_s=5)
        await redis.aclose()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(30)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            yield client
    finally:
        web[0].should_exit = True
        thread.join(timeout=30)
        listener.close()
    assert not thread.is_alive()
