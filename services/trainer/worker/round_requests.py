"""Asking a trainer that runs somewhere for a round now: `train --once` asks, the worker answers with its number."""

import secrets

from redis.asyncio import Redis

from shared.redis import key

EXPIRES_AFTER_S = 600


class RoundRequests:
    """One dataset's requests, through Redis."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self._redis, self._dataset = redis, dataset
        self._requested = key(dataset, "trainer", "wanted")

    async def ask(self) -> str:
        """Ask; the token under which the answer comes."""
        token = secrets.token_hex(8)
        await self._redis.lpush(self._requested, token)
        await self._redis.expire(self._requested, EXPIRES_AFTER_S)
        return token

    async def take(self) -> list[str]:
        """The tokens of all open requests; they are the caller's to answer now."""
        tokens = await self._redis.rpop(self._requested, EXPIRES_AFTER_S)
        return [str(token) for token in tokens or []]

    async def answer(self, token: str, text: str) -> None:
        """A round's number, or why there is none."""
        await self._redis.set(key(self._dataset, "trainer", "answer", token), text, ex=EXPIRES_AFTER_S)

    async def answer_to(self, token: str) -> str | None:
        """The answer, once there is one."""
        text = await self._redis.get(key(self._dataset, "trainer", "answer", token))
        return None if text is None else str(text)
