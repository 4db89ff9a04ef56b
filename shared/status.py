"""What each service is doing right now, for whoever watches: a note in Redis that fades when its writer dies."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

FADES_AFTER_S = 10
LISTEN_AGAIN_S = 5.0


class StatusBoard:
    """One dataset's notes, one a service. Only a hint: nothing durable may rest on it."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self._redis = redis
        self._prefix = f"pairwright:{{{dataset}}}:status"
        self._published = f"pairwright:{{{dataset}}}:published"

    async def post(self, service: str, note: dict[str, Any]) -> None:
        """Replace the service's note. Post again within `FADES_AFTER_S` seconds, or it is gone."""
        await self._redis.set(f"{self._prefix}:{service}", json.dumps(note), ex=FADES_AFTER_S)

    async def read(self, service: str) -> dict[str, Any]:
        """The service's note; {} when it has none, which is also what a dead service has."""
        note = await self._redis.get(f"{self._prefix}:{service}")
        return dict(json.loads(note)) if note else {}

    async def announce(self, version: str) -> None:
        """Tell whoever listens that a version was published. Nobody may hear it: the store's pointer is the truth."""
        with contextlib.suppress(RedisError):
            await self._redis.publish(self._published, version)

    async def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` at each announcement until cancelled. While Redis is away, nothing is heard."""
        while True:
            with contextlib.suppress(RedisError, OSError):
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(self._published)
                    while True:
                        # A timeout of its own: the client's would end a quiet connection with an error.
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=1.0)
                        if message is not None:
                            heard()
            await asyncio.sleep(LISTEN_AGAIN_S)
