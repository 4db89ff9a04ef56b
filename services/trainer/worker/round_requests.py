"""Asking a trainer that runs somewhere for a round now: `train --once` asks, the worker answers with its number."""

import asyncio
import secrets
import time

from redis.asyncio import Redis

from shared.backoff import pause
from shared.redis import key

EXPIRES_AFTER_S = 600
LOOK_S, ANSWER_WITHIN_S = 0.5, 60.0


class RoundRequests:
    """One dataset's requests, through Redis."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self._redis = redis
        self._requested, self._answers = key(dataset, "trainer", "wanted"), key(dataset, "trainer", "answer")

    async def ask(self, stopping: asyncio.Event) -> str | None:
        """Ask, and wait for the answer; None when there is none in time, or `stopping` is set before."""
        token = secrets.token_hex(8)
        await self._redis.lpush(self._requested, token)
        await self._redis.expire(self._requested, EXPIRES_AFTER_S)
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while time.monotonic() < deadline and not stopping.is_set():
            if (text := await self._redis.get(f"{self._answers}:{token}")) is not None:
                return str(text)
            await pause(stopping, LOOK_S)
        return None

    async def take(self) -> list[str]:
        """The tokens of all open requests; they are the caller's to answer now."""
        return [str(token) for token in await self._redis.rpop(self._requested, EXPIRES_AFTER_S) or []]

    async def answer(self, token: str, text: str) -> None:
        """A round's number, or why there is none."""
        await self._redis.set(f"{self._answers}:{token}", text, ex=EXPIRES_AFTER_S)
