"""What each service is doing right now, for whoever watches: a note in Redis that fades when its writer dies."""

import json
from typing import Any

from redis.asyncio import Redis

FADES_AFTER_S = 10


class StatusBoard:
    """One dataset's notes, one a service. Only a hint: nothing durable may rest on it."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self._redis = redis
        self._prefix = f"pairwright:{{{dataset}}}:status"

    async def post(self, service: str, note: dict[str, Any]) -> None:
        """Replace the service's note. Post again within `FADES_AFTER_S` seconds, or it is gone."""
        await self._redis.set(f"{self._prefix}:{service}", json.dumps(note), ex=FADES_AFTER_S)

    async def read(self, service: str) -> dict[str, Any]:
        """The service's note; {} when it has none, which is also what a dead service has."""
        note = await self._redis.get(f"{self._prefix}:{service}")
        return dict(json.loads(note)) if note else {}
