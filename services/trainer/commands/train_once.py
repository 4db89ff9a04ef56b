"""`train --once` where a trainer works already: ask it, and show how the round goes."""

import asyncio
import contextlib

from redis.exceptions import RedisError

from services.trainer.dataset.store import Round, State
from services.trainer.progress import Progress
from services.trainer.worker.parts import Parts
from services.trainer.worker.progress_bar import ProgressBar
from services.trainer.worker.round_requests import RoundRequests
from shared.backoff import pause
from shared.errors import Fatal

LOOK_S, ANSWER_WITHIN_S = 0.5, 60.0
ENDED = {State.PUBLISHED, State.REJECTED, State.FAILED}
SHOWN = ("state", "step", "steps", "loss", "dev", "seconds_left")


async def follow_other_trainer(parts: Parts, bar: ProgressBar, stopping: asyncio.Event) -> None:
    """Ask the trainer that holds the dataset for a round, show how it goes and what came of it. Raises `Fatal`."""
    id_ = await _ask(parts.requests, stopping)
    while (round_ := await parts.dataset.run(lambda dataset: dataset.round(id_))).state not in ENDED:
        if stopping.is_set():
            raise Fatal(f"no longer watching; round {id_} goes on")
        with contextlib.suppress(RedisError, OSError, ValueError):
            status = await parts.heartbeats.read("trainer")
            bar.show(id_, Progress.model_validate({key: status[key] for key in SHOWN if key in status}))
        await pause(stopping, LOOK_S)
    print_outcome(round_, None)


async def _ask(requests: RoundRequests, stopping: asyncio.Event) -> int:
    token = await requests.ask()
    for _ in range(int(ANSWER_WITHIN_S / LOOK_S)):
        answer = await requests.answer_to(token)
        if answer is not None:
            if answer.isdecimal():
                return int(answer)
            raise Fatal(answer)
        if stopping.is_set():
            break
        await pause(stopping, LOOK_S)
    raise Fatal("the trainer that works on this dataset didn't answer; see its log (is a round running?)")


def print_outcome(round_: Round, error: str | None) -> None:
    """Print what came of a round. Raises `Fatal` unless it was published."""
    if round_.state == State.REJECTED:
        raise Fatal(f"round {round_.id} is rejected, as {round_.version}: {round_.reason}")
    if round_.state != State.PUBLISHED:
        raise Fatal(error or f"round {round_.id} failed: {round_.reason}")
    print(f"round {round_.id} is published as {round_.version}")
