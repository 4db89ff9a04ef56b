"""Pairs to send, apps to call, and waiting with an end."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from fastapi import FastAPI

from shared.http.server import Server, listen
from shared.pairs import Pair, PairRecord, Provenance

ServeApp = Callable[[FastAPI], httpx.Client]


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


@pytest.fixture
def serve_app() -> Iterator[ServeApp]:
    """Starts an app on a free port; gives a client of it."""
    ends: list[Callable[[], None]] = []

    def start(app: FastAPI) -> httpx.Client:
        listener = listen("127.0.0.1", 0, "PAIRWRIGHT_EXAMPLE_PORT")
        running = Server(app, drain_s=1)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        client = httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30)

        def end() -> None:
            client.close()
            running.should_exit = True
            thread.join()

        ends.append(end)
        wait_until(lambda: running.started, "the server's start")
        return client

    yield start
    for end in ends:
        end()
