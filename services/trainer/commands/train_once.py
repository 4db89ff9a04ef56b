"""`train --once` where a trainer works already: ask it, and show how the round goes."""

import asyncio
import contextlib

from redis.exceptions import RedisError

from services.trainer.dataset.store import Round, State
from services.trainer.progress import Progress
from services.trainer.worker.parts import Parts
from shared.backoff import pause
from shared.errors import Fatal

LOOK_S = 0.5
ENDED = {State.PUBLISHED, State.REJECTED, State.FAILED}
SHOWN = ("state", "step", "steps", "loss", "dev", "seconds_left")


async def follow_other_trainer(parts: Parts, stopping: asyncio.Event) -> None:
    """Ask the trainer that holds the dataset for a round, show how it goes and what came of it. Raises `Fatal`."""
    answer = await parts.requests.ask(stopping)
    if answer is None:
        raise Fatal("the trainer that works on this dataset didn't answer; see its log (is a round running?)")
    if not answer.isdecimal():
        raise Fatal(answer)
    id_ = int(answer)
    while (round_ := await parts.dataset.run(lambda dataset: dataset.round(id_))).state not in ENDED:
        if stopping.is_set():
            raise Fatal(f"no longer following it; round {id_} goes on")
        with contextlib.suppress(RedisError, OSError, ValueError):
            status = await parts.heartbeats.read("trainer")
            parts.on_progress(id_, Progress.model_validate({key: status[key] for key in SHOWN if key in status}))
        await pause(stopping, LOOK_S)
    print_outcome(round_, None)


def print_outcome(round_: Round, error: str | None) -> None:
    """Print what came of a round. Raises `Fatal` unless it was published."""
    if round_.state == State.REJECTED:
        raise Fatal(f"round {round_.id} is rejected, as {round_.version}: {round_.reason}")
    if round_.state != State.PUBLISHED:
        raise Fatal(error or f"round {round_.id} failed: {round_.reason}")
    print(f"round {round_.id} is published as {round_.version}")
