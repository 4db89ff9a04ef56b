"""Which of several trainers works on a dataset: a lease in Redis that one holds and the others wait for.

Each holder gets a higher epoch than any before (the fencing token). A holder that was cut off may not know that its
lease is gone; the model store refuses what it publishes with an old epoch, so it can't overwrite its successor's work.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

LEASE_S, RENEW_S, ASK_S = 10.0, 3.0, 0.5

# KEYS: lease, epoch.  ARGV: holder, the prefix of all holders on our dataset's folder, milliseconds, least epoch.
# We hold the folder's lock, so another holder with our prefix is dead: its lease needs no waiting out.
TAKE = """
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #ARGV[2]) ~= ARGV[2] then return {0, held} end
local epoch = redis.call('INCR', KEYS[2])
if epoch < tonumber(ARGV[4]) then
  epoch = tonumber(ARGV[4])
  redis.call('SET', KEYS[2], epoch)
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return {epoch, ARGV[1]}
"""
RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Lease:
    """The right to collect, train and publish for one dataset."""

    def __init__(self, redis: Redis, dataset: str, folder_id: str) -> None:
        self._keys = [f"pairwright:{{{dataset}}}:trainer:{name}" for name in ("lease", "epoch")]
        self._prefix = f"{folder_id}/"
        self._holder = f"{self._prefix}{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._take, self._renew, self._release = (redis.register_script(text) for text in (TAKE, RENEW, RELEASE))
        self.epoch = 0
        """Of the lease now held; 0 without one."""

    @property
    def held(self) -> bool:
        """Whether the lease is ours, as far as we know."""
        return self.epoch > 0

    async def take(self, least_epoch: int, stopping: asyncio.Event) -> int:
        """Wait for the lease, through any outage; its epoch, at least `least_epoch`; 0 if `stopping` came first."""
        told: str | None = None
        while not stopping.is_set():
            try:
                epoch, holder = await self._try(least_epoch)
            except (RedisError, OSError) as error:
                epoch, holder = 0, f"Redis, which doesn't answer ({str(error) or type(error).__name__})"
            if epoch:
                self.epoch = epoch
                return epoch
            if holder != told:
                told = holder
                log.warning(
                    "waiting for %s; this trainer takes over when it is gone", holder.removeprefix(self._prefix)
                )
            await pause(stopping, ASK_S)
        return 0

    async def keep(self) -> None:
        """Renew the lease until it is lost; during an outage of Redis nobody can take it, and it stays ours."""
        while self.held:
            await asyncio.sleep(RENEW_S)
            try:
                if await self._renew(keys=self._keys[:1], args=[self._holder, int(LEASE_S * 1000)]):
                    continue
                epoch, holder = await self._try(self.epoch + 1)
            except (RedisError, OSError):
                continue
            if epoch == 0:
                log.error("the lease is lost to %s", holder)
            self.epoch = epoch

    async def release(self) -> None:
        """Give the lease back, so that the next one need not wait."""
        self.epoch = 0
        try:
            await self._release(keys=self._keys[:1], args=[self._holder])
        except (RedisError, OSError) as error:
            log.debug("the lease is left to expire: %s", error)

    async def _try(self, least_epoch: int) -> tuple[int, str]:
        arguments: list[str | int] = [self._holder, self._prefix, int(LEASE_S * 1000), least_epoch]
        epoch, holder = await self._take(keys=self._keys, args=arguments)
        return int(epoch), str(holder)


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Sleep, but not past `stopping`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
