"""How our processes talk to Redis: the one place where clients are made, with the options that were measured."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff

BLOCK_MARGIN_S = 4.0


def command_client(url: str) -> Redis:
    """For commands that may be repeated without harm: two quick retries, an error within a few seconds otherwise."""
    return _client(url, Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), 2), timeout_s=3.0)


def reading_client(url: str, longest_block_s: float) -> Redis:
    """For blocking reads: no retries, because a repeated XREADGROUP would strand the entries of the lost reply."""
    return _client(url, Retry(NoBackoff(), 0), timeout_s=longest_block_s + BLOCK_MARGIN_S)


def _client(url: str, retry: Retry, timeout_s: float) -> Redis:
    return Redis.from_url(
        url,
        protocol=3,
        legacy_responses=False,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=2,
        client_name="pairwright",
        retry=retry,
    )
