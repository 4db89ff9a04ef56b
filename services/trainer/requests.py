"""Asking a trainer that runs somewhere for a round now: `train --once` asks, the worker answers with its number."""

import secrets

from redis.asyncio import Redis

FADES_AFTER_S = 600


class Requests:
    """One dataset's requests, through Redis."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self._redis = redis
        self._prefix = f"pairwright:{{{dataset}}}:trainer"

    async def ask(self) -> str:
        """Ask; the token under which the answer comes."""
        token = secrets.token_hex(8)
        await self._redis.lpush(f"{self._prefix}:wanted", token)
        await self._redis.expire(f"{self._prefix}:wanted", FADES_AFTER_S)
        return token

    async def take(self) -> list[str]:
        """All open requests; they are the taker's to answer now."""
        key = f"{self._prefix}:wanted"
        taken = await self._redis.rpop(key, FADES_AFTER_S)
        return [str(token) for token in taken or []]

    async def answer(self, token: str, said: str) -> None:
        """A round's number, or why there is none."""
        await self._redis.set(f"{self._prefix}:answer:{token}", said, ex=FADES_AFTER_S)

    async def answer_to(self, token: str) -> str | None:
        """The answer, once there is one."""
        said = await self._redis.get(f"{self._prefix}:answer:{token}")
        return None if said is None else str(said)
