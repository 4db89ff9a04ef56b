"""How long to wait before the next attempt: the one policy of retries."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

Result = TypeVar("Result")


@dataclass
class Backoff:
    """Pauses that double from `first_s` to `last_s`, each shortened by up to half to spread many callers."""

    first_s: float = 0.05
    last_s: float = 5.0
    failures: int = field(default=0, init=False)

    def next_s(self) -> float:
        """Count one more failure; seconds to wait now."""
        pause = min(self.last_s, self.first_s * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return pause * random.uniform(0.5, 1)

    def reset(self) -> None:
        """Begin again with `first_s`: an attempt succeeded."""
        self.failures = 0


async def retry(
    call: Callable[[], Awaitable[Result]],
    errors: tuple[type[Exception], ...],
    backoff: Backoff,
    on_error: Callable[[Exception], None] = lambda _: None,
) -> Result:
    """The result of `call`, which is repeated for as long as it raises one of `errors`; `on_error` is called with each.

    `backoff` is reset by the success.
    """
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
