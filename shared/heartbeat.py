"""What each service is doing right now: a status in Redis that expires when its writer dies."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.redis import key

EXPIRES_AFTER_S = 10


class Heartbeats:
    """One dataset's heartbeats, one a service. Only a hint: nothing durable may rest on it."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self._redis, self._dataset, self._published = redis, dataset, key(dataset, "published")

    async def post(self, service: str, status: dict[str, Any]) -> None:
        """Replace the service's status. Post again within `EXPIRES_AFTER_S` seconds, or it is gone."""
        await self._redis.set(key(self._dataset, "status", service), json.dumps(status), ex=EXPIRES_AFTER_S)

    async def read(self, service: str) -> dict[str, Any]:
        """The service's status; {} when it has none, which is also what a dead service has."""
        status = await self._redis.get(key(self._dataset, "status", service))
        return dict(json.loads(status)) if status else {}

    async def announce(self, version: str) -> None:
        """Announce a published version to all listeners. There may be none: the store's pointer is the truth."""
        with contextlib.suppress(RedisError):
            await self._redis.publish(self._published, version)

    async def listen(self, on_version: Callable[[], None]) -> None:
        """Call `on_version` at each announcement until cancelled. Those made while Redis is away are missed."""
        while True:
            with contextlib.suppress(RedisError, OSError):
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(self._published)
                    while True:
                        # A timeout of its own: the client's would end a quiet connection with an error.
                        if await channel.get_message(ignore_subscribe_messages=True, timeout=1.0):
                            on_version()
            await asyncio.sleep(5.0)
