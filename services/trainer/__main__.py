"""`python -m services.trainer`: settings -> queue -> lease -> dataset -> worker. With a command: see `--help`."""

import asyncio
import contextlib
import logging
import signal

from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError

from services.trainer.commands.cli import command_line
from services.trainer.dataset.store import Round, State, lock
from services.trainer.metrics import Metrics
from services.trainer.progress import Progress
from services.trainer.settings import TrainerSettings
from services.trainer.students import names
from services.trainer.worker.dataset_api import DatasetApi
from services.trainer.worker.health_server import health_server
from services.trainer.worker.loop import Worker
from services.trainer.worker.parts import Parts, build
from services.trainer.worker.progress_bar import progress_bar
from services.trainer.worker.routes import routers
from services.trainer.worker.scheduler import RoundScheduler
from shared import tracing
from shared.backoff import pause
from shared.errors import Fatal, first_line
from shared.lease import ASK_S
from shared.model_store import ModelStore
from shared.process import fatal_in_one_line, run
from shared.settings import Settings, load

log = logging.getLogger("services.trainer")

LEASE_WITHIN_S = 30.0  # three times as long as a dead trainer's lease lasts


def stop_event() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def work(settings: Settings, own: TrainerSettings) -> None:
    """Collect and train until SIGTERM or SIGINT, whenever no other trainer does."""
    try:
        names.check(settings.student)
    except Fatal:
        # Before anything was ever served it is a typing error; later it may be a disk that is not mounted.
        if ModelStore(settings.models_dir).current() is None:
            raise
        log.warning("the base student is not there now; rounds wait for it")
    stopping, has_warned = stop_event(), False
    metrics, folder = Metrics(CollectorRegistry()), settings.dataset_dir
    api = DatasetApi(own.host, has_keys=bool(settings.keys))
    async with health_server(own.host, own.port, metrics, settings.keys, routers(api), settings.service_urls):
        while not stopping.is_set():
            with lock(folder) as is_ours:
                if is_ours:
                    with progress_bar() as show:
                        async with build(settings, own, metrics, show) as parts:
                            with api.answered_by(parts):
                                await work_with(parts, stopping)
                    continue
            if not has_warned:
                has_warned = True
                log.warning("another trainer works on %s; this one takes over when it is gone", folder)
            await pause(stopping, ASK_S)
    log.info("stopped")


async def work_with(parts: Parts, stopping: asyncio.Event) -> None:
    """Work under one lease after the other."""
    while await parts.take_lease(stopping):
        await Worker(parts, stopping).run()
        await parts.lease.release()


async def train_once(settings: Settings, own: TrainerSettings) -> None:
    """One round now: here, or by the trainer that works on this dataset. Raises `Fatal` unless it is published."""
    stopping, metrics = stop_event(), Metrics(CollectorRegistry())
    with lock(settings.dataset_dir) as is_ours, progress_bar() as show:
        async with build(settings, own, metrics, show) as parts:
            outcome = await run_or_follow(parts, is_ours, stopping)
    if outcome is None:
        return
    round_, error = outcome
    if round_.state == State.REJECTED:
        raise Fatal(f"round {round_.id} is rejected, as {round_.version}: {round_.reason}")
    if round_.state != State.PUBLISHED:
        raise Fatal(error or f"round {round_.id} failed: {round_.reason}")
    print(f"round {round_.id} is published as {round_.version}")  # noqa: T201


async def run_or_follow(parts: Parts, is_ours: bool, stopping: asyncio.Event) -> tuple[Round, str | None] | None:
    """Run one round, or have it run by the trainer that has the lock; what became of it, and the last error.

    None if `stopping` came first. Raises `Fatal`, also when Redis doesn't answer.
    """
    try:
        if not is_ours:
            return await follow_other_trainer(parts, stopping), None
        return await run_once(parts, stopping) if await take_lease_soon(parts, stopping) else None
    except RedisError as away:
        message = "PAIRWRIGHT_REDIS_URL: Redis doesn't answer; is it up, and the address right?"
        raise Fatal(f"{message} ({first_line(away)})") from None


async def take_lease_soon(parts: Parts, stopping: asyncio.Event) -> bool:
    """Take the lease; False if `stopping` came first. Raises `Fatal` when it can't be had soon, or RedisError."""
    try:
        async with asyncio.timeout(LEASE_WITHIN_S):
            return await parts.take_lease(stopping)
    except TimeoutError:
        await parts.commands.ping()
        raise Fatal("a trainer on another machine works on this dataset and keeps it; end it, or ask there") from None


async def run_once(parts: Parts, stopping: asyncio.Event) -> tuple[Round, str | None]:
    """Run one round under our lease; what became of it, and the last error. Raises `Fatal`."""
    rounds = RoundScheduler(parts, parts.collector())
    renewal, running = asyncio.create_task(parts.lease.keep()), asyncio.create_task(rounds.run_once())
    await asyncio.wait({running, asyncio.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
    renewal.cancel()
    running.cancel()
    await asyncio.wait({running})  # its child process ends with it
    await parts.lease.release()
    if running.cancelled():
        raise Fatal("stopped; the round goes on at the next start")
    return running.result(), rounds.error


async def follow_other_trainer(parts: Parts, stopping: asyncio.Event) -> Round:
    """Ask the trainer that holds the dataset for a round and show how it goes; what came of it. Raises `Fatal`."""
    answer = await parts.requests.ask(stopping)
    if answer is None or not answer.isdecimal():
        raise Fatal(answer or "the trainer that works on this dataset didn't answer; see its log (is a round running?)")
    id_ = int(answer)
    while (round_ := await parts.dataset.run(lambda dataset: dataset.round(id_))).finished is None:
        if stopping.is_set():
            raise Fatal(f"no longer following it; round {id_} goes on")
        with contextlib.suppress(RedisError, OSError, ValueError):
            status = await parts.heartbeats.read("trainer") | {"version": None, "error": None}  # of another round
            parts.on_progress(id_, Progress.model_validate(status))
        await pause(stopping, ASK_S)
    return round_


def start(settings: Settings, once: bool) -> None:
    """Train, and send the traces before the process ends."""
    own = load(TrainerSettings)
    stop_tracing = tracing.start("trainer")
    run("trainer", train_once(settings, own) if once else work(settings, own))
    stop_tracing()


def main() -> None:
    """Do what the command line asks for."""
    with fatal_in_one_line("trainer"):
        command_line(start)()


if __name__ == "__main__":
    main()
