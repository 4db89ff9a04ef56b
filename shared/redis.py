"""How our processes talk to Redis: the one place where clients are made, with the options that were measured."""

import asyncio
from collections.abc import Iterable

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff


def key(dataset: str, *parts: str) -> str:
    """A key of a dataset's: all of them carry one hash tag, so that a cluster keeps them in one slot."""
    return ":".join([f"pairwright:{{{dataset}}}", *parts])


class Cancellable(AbstractConnection):
    """A connection that lets no cancellation get lost.

    redis-py sends within `asyncio.wait_for`, and Python 3.11's returns as if nothing had happened when the task is
    cancelled in the moment in which the sending is done (python/cpython#86296): a cancelled job went on for ever.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Send; the connection is given up if the task was cancelled meanwhile, as its answer is never read."""
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        await super().send_packed_command(command, check_health)
        if task and task.cancelling() > before:
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError


def command_client(url: str) -> Redis:
    """For commands that may be repeated without harm: two quick retries, an error within a few seconds otherwise."""
    return _client(url, Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), 2), timeout_s=3.0)


def reading_client(url: str, longest_block_s: float) -> Redis:
    """For blocking reads: no retries, because a repeated XREADGROUP would strand the entries of the lost reply."""
    return _client(url, Retry(NoBackoff(), 0), timeout_s=longest_block_s + 4.0)


def _client(url: str, retry: Retry, timeout_s: float) -> Redis:
    pool = ConnectionPool.from_url(
        url,
        protocol=3,
        legacy_responses=False,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=2,
        client_name="pairwright",
        retry=retry,
    )
    # The URL has chosen between TCP, TLS and a Unix socket.
    pool.connection_class = type("Connection", (Cancellable, pool.connection_class), {})
    return Redis.from_pool(pool)
