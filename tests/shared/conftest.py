"""Pairs to send, and waiting with an end."""

import asyncio
import time
from collections.abc import Callable

from shared.pairs import Pair, PairRecord, Provenance


def record(number: int) -> PairRecord:
    """A pair that differs for each number."""
    return PairRecord(
        pair=Pair(sentence1=f"A man counts to {number}.", sentence2=f"Someone counts {number} sheep.", score=0.5),
        provenance=Provenance(dataset="default", task="sts", label="0.5", job="job", teacher="default", seed=number),
    )


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    """Return once `condition` holds; fail with `what` if that takes longer than any healthy machine needs."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.02)


async def wait_until_async(condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    """`wait_until` beside other coroutines."""
    await asyncio.to_thread(wait_until, condition, what, timeout_s)
