"""`train --once` where a trainer works already: ask it, and watch."""

import asyncio
import sys
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.trainer.dataset.store import Dataset, Round, State
from services.trainer.progress import Progress
from services.trainer.worker.progress_bar import ProgressBar
from services.trainer.worker.round_requests import RoundRequests
from shared.backoff import pause
from shared.errors import Fatal
from shared.heartbeat import Heartbeats

LOOK_S, ANSWER_WITHIN_S = 0.5, 60.0
ENDED = {State.PUBLISHED, State.REJECTED, State.FAILED}


async def watch_elsewhere(redis: Redis, dataset: Dataset, name: str, bar: ProgressBar, stopping: asyncio.Event) -> None:
    """Ask the trainer that holds the dataset for a round, show how it goes and tell what came of it. Raises `Fatal`."""
    id_ = await _ask(RoundRequests(redis, name), stopping)
    board = Heartbeats(redis, name)
    while (round_ := dataset.round(id_)).state not in ENDED:
        if stopping.is_set():
            raise Fatal(f"no longer watching; round {id_} goes on")
        with suppress(RedisError, OSError, ValueError):
            note = await board.read("trainer")
            bar.show(id_, Progress.model_validate({key: note[key] for key in Progress.model_fields if key in note and
                                                   key not in ("version", "fault")}))  # fmt: skip
        await pause(stopping, LOOK_S)
    tell(round_, None)


async def _ask(requests: RoundRequests, stopping: asyncio.Event) -> int:
    token = await requests.ask()
    for _ in range(int(ANSWER_WITHIN_S / LOOK_S)):
        said = await requests.answer_to(token)
        if said is not None:
            if said.isdecimal():
                return int(said)
            raise Fatal(said)
        if stopping.is_set():
            break
        await pause(stopping, LOOK_S)
    raise Fatal("the trainer that works on this dataset didn't answer; see its log (is a round running?)")


def tell(round_: Round, fault: str | None) -> None:
    """Say what came of a round. Raises `Fatal` unless it was published."""
    if round_.state == State.PUBLISHED:
        sys.stdout.write(f"round {round_.id} is published as {round_.version}\n")
        return
    if round_.state == State.REJECTED:
        raise Fatal(f"round {round_.id} is rejected, as {round_.version}: {round_.reason}")
    raise Fatal(fault or f"round {round_.id} failed: {round_.reason}")
