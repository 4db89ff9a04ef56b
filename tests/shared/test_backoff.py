"""The pauses between attempts, and retries by them."""

import asyncio
import time

import pytest

from shared.backoff import Backoff, pause, retry

pytestmark = pytest.mark.anyio


def test_pauses_double_to_the_last_and_begin_again_after_a_reset() -> None:
    backoff = Backoff(first_s=1.0, last_s=5.0)
    for longest in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert longest / 2 <= backoff.next_s() <= longest
    backoff.reset()
    assert backoff.next_s() <= 1.0


def test_a_year_of_failures_overflows_nothing() -> None:
    backoff = Backoff()
    backoff.failures = 10**7
    assert backoff.next_s() <= backoff.last_s


def test_pauses_of_many_are_spread() -> None:
    assert len({round(Backoff(first_s=1.0).next_s(), 3) for _ in range(50)}) > 25


async def test_a_call_is_repeated_until_it_returns() -> None:
    backoff, errors, attempts = Backoff(first_s=0.001, last_s=0.001), list[Exception](), list[float]()

    async def call() -> str:
        attempts.append(time.monotonic())
        if len(attempts) < 4:
            raise ConnectionError(str(len(attempts)))
        return "result"

    assert await retry(call, (OSError,), backoff, errors.append) == "result"
    assert [str(error) for error in errors] == ["1", "2", "3"]
    assert backoff.failures == 0, "the next trouble begins with the first pause"


async def test_other_errors_and_a_cancellation_end_it() -> None:
    attempts = 0

    async def fail() -> None:
        nonlocal attempts
        attempts += 1
        raise OSError if attempts < 3 else ValueError("no retry")

    with pytest.raises(ValueError, match="no retry"):
        await retry(fail, (OSError,), Backoff(0.001, 0.001))
    assert attempts == 3

    async def fail_for_ever() -> None:
        raise OSError

    task = asyncio.create_task(retry(fail_for_ever, (OSError,), Backoff(60, 60)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_pause_ends_early_when_stopping() -> None:
    stopping = asyncio.Event()
    began = time.monotonic()
    await pause(stopping, 0.05)
    assert time.monotonic() - began >= 0.045
    asyncio.get_running_loop().call_later(0.05, stopping.set)
    async with asyncio.timeout(30):
        await pause(stopping, 600)
        await pause(stopping, 600)
