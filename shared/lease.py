"""Which of several processes does a piece of work: a lease in Redis that one holds and the others wait for.

Each holder gets a higher epoch than any before (the fencing token). A holder that was cut off may not know that its
lease is lost. What it writes must be refused for its epoch (the model store does) or be harmless when it comes twice.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.backoff import pause
from shared.redis import key

log = logging.getLogger(__name__)

LEASE_S, RENEW_S, ASK_S = 10.0, 3.0, 0.5

# KEYS: lease, epoch.  ARGV: holder, the prefix of all holders that exclude each other, milliseconds, least epoch.
# Another holder with our prefix is dead: its lease needs no waiting out.
TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, 1, #ARGV[2]) ~= ARGV[2] then return {0, holder} end
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
    """The right to do one piece of work, named by `work`: part of the keys `...:WORK:lease` and `...:WORK:epoch`."""

    def __init__(
        self, redis: Redis, dataset: str, work: str, owner: str, *, lease_s: float = LEASE_S, renew_s: float = RENEW_S
    ) -> None:
        """Of the processes with one `owner`, only one can live at a time, as with a file lock."""
        self._keys = [key(dataset, work, name) for name in ("lease", "epoch")]
        self._lease_ms, self._renew_s = int(lease_s * 1000), renew_s
        self._prefix = self._holder = f"{owner}/"
        self._take, self._renew, self._release = (redis.register_script(text) for text in (TAKE, RENEW, RELEASE))
        self.epoch = 0
        """Of the lease that we hold; 0 without one."""

    @property
    def held(self) -> bool:
        """Whether the lease is ours, as far as we know."""
        return self.epoch > 0

    async def take(self, least_epoch: int, stopping: asyncio.Event) -> int:
        """Wait for the lease, through any outage; its epoch, at least `least_epoch`; 0 if `stopping` came first."""
        logged: str | None = None
        while not stopping.is_set():
            try:
                epoch, holder = await self.try_to_take(least_epoch)
            except (RedisError, OSError) as error:
                epoch, holder = 0, f"Redis, which doesn't answer ({str(error) or type(error).__name__})"
            if epoch:
                return epoch
            if holder != logged:
                log.warning("waiting for %s; this process takes over when it is gone", holder)
            logged = holder
            await pause(stopping, ASK_S)
        return 0

    async def keep(self) -> None:
        """Renew the lease until it is lost; during an outage of Redis nobody can take it, and it stays ours."""
        while self.held:
            await asyncio.sleep(self._renew_s)
            with contextlib.suppress(RedisError, OSError):
                if await self._renew(keys=self._keys[:1], args=[self._holder, self._lease_ms]) or not self.held:
                    continue
                # Redis has forgotten the lease: it is ours again, if nobody else has it.
                epoch, holder = await self.try_to_take(self.epoch + 1)
                if epoch == 0:
                    log.error("the lease is lost to %s", holder)

    async def release(self) -> None:
        """Give the lease back, so that the next one need not wait."""
        self.epoch = 0
        try:
            await self._release(keys=self._keys[:1], args=[self._holder])
        except (RedisError, OSError) as error:
            log.debug("the lease is left to expire: %s", error)

    async def try_to_take(self, least_epoch: int = 1) -> tuple[int, str]:
        """The epoch, 0 while somebody else holds the lease, and the holder. Raises redis errors."""
        # A name for each attempt: if its reply is lost, the lease is not renewed under an epoch that we don't know.
        name = f"{self._prefix}{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        epoch, holder = await self._take(keys=self._keys, args=[name, self._prefix, self._lease_ms, least_epoch])
        self.epoch, self._holder = int(epoch), name
        return self.epoch, str(holder)
