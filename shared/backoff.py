"""How long to wait before the next attempt: the one policy of retries."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass
class Backoff:
    """Pauses that grow from `first_s` to `last_s`, each less up to `jitter` of it, so that many don't come at once."""

    first_s: float = 0.05
    last_s: float = 5.0
    factor: float = 2.0
    jitter: float = 0.5
    failures: int = 0

    def next_s(self) -> float:
        """Count one more failure; seconds to wait now."""
        longest = min(self.last_s, self.first_s * self.factor ** min(self.failures, 60))
        self.failures += 1
        return longest * random.uniform(1 - self.jitter, 1)

    def reset(self) -> None:
        """Begin again with `first_s`: an attempt succeeded."""
        self.failures = 0


async def retry(
    call: Callable[[], Awaitable[Result]],
    errors: tuple[type[Exception], ...],
    backoff: Backoff,
    on_error: Callable[[Exception], None] = lambda _: None,
) -> Result:
    """The result of `call`, repeated for as long as it raises one of `errors`. The success resets `backoff`."""
    while True:
        try:
            result = await call()
        except errors as error:
            on_error(error)
            await asyncio.sleep(backoff.next_s())
        else:
            backoff.reset()
            return result


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Sleep for `seconds`, or until `stopping` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
