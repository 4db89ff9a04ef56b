"""`python -m services.trainer`: settings -> queue -> lease -> dataset -> worker. With a command: see `--help`."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry

from services.trainer.commands.cli import command_line
from services.trainer.commands.train_once import follow_other_trainer, print_outcome
from services.trainer.dataset.store import Dataset, lock, open_dataset
from services.trainer.metrics import Metrics
from services.trainer.settings import TrainerSettings
from services.trainer.students import names
from services.trainer.worker.child import RunRound, run_child
from services.trainer.worker.dataset_thread import DatasetThread
from services.trainer.worker.health_server import health_server
from services.trainer.worker.loop import BLOCK_MS, Worker
from services.trainer.worker.parts import OnProgress, Parts
from services.trainer.worker.progress_bar import progress_bar
from services.trainer.worker.round_requests import RoundRequests
from services.trainer.worker.scheduler import RoundScheduler
from shared import tracing
from shared.backoff import pause
from shared.errors import Fatal
from shared.heartbeat import Heartbeats
from shared.lease import ASK_S, Lease
from shared.model_store import ModelStore
from shared.process import exit_with, run
from shared.queue import open_queue
from shared.redis import command_client, reading_client
from shared.settings import Settings, load
from shared.stream import PairStream

log = logging.getLogger("services.trainer")


@contextlib.asynccontextmanager
async def build(
    settings: Settings,
    own: TrainerSettings,
    metrics: Metrics,
    dataset: Dataset,
    on_progress: OnProgress,
    run_round: RunRound = run_child,
) -> AsyncIterator[Parts]:
    """Build the parts around an open dataset. Raises `Fatal`."""
    folder = settings.dataset_dir
    with open_queue(settings.redis_url, settings.queue_dir) as url, DatasetThread(dataset, folder) as thread:
        name, reading, commands = settings.dataset, reading_client(url, BLOCK_MS / 1000), command_client(url)
        yield Parts(
            settings=settings,
            own=own,
            dataset=thread,
            store=ModelStore(settings.models_dir),
            reader=PairStream(reading, name),
            writer=PairStream(commands, name),
            heartbeats=Heartbeats(commands, name),
            requests=RoundRequests(commands, name),
            lease=Lease(commands, name, "trainer", dataset.id),
            metrics=metrics,
            on_progress=on_progress,
            run_round=run_round,
        )
        await asyncio.gather(reading.aclose(), commands.aclose())


def stop_event() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def work(settings: Settings, own: TrainerSettings) -> None:
    """Collect and train until SIGTERM or SIGINT, whenever no other trainer does."""
    check_student(settings)
    stopping, has_warned = stop_event(), False
    metrics, folder = Metrics(CollectorRegistry()), settings.dataset_dir
    async with health_server(own.host, own.port, metrics):
        while not stopping.is_set():
            with lock(folder) as is_ours:
                if is_ours:
                    with open_dataset(folder) as dataset, progress_bar() as show:
                        async with build(settings, own, metrics, dataset, show) as parts:
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
    """One round now: here, or by the trainer that works on this dataset. Raises `Fatal` when nothing comes of it."""
    stopping, metrics, folder = stop_event(), Metrics(CollectorRegistry()), settings.dataset_dir
    with lock(folder) as is_ours, open_dataset(folder) as dataset, progress_bar() as show:
        async with build(settings, own, metrics, dataset, show) as parts:
            if not is_ours:
                await follow_other_trainer(parts, stopping)
                return
            if not await parts.take_lease(stopping):
                return
            rounds = RoundScheduler(parts, parts.collector())
            renewal, running = asyncio.create_task(parts.lease.keep()), asyncio.create_task(rounds.run_once())
            await asyncio.wait({running, asyncio.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
            renewal.cancel()
            running.cancel()
            await asyncio.wait({running})  # its child process ends with it
            await parts.lease.release()
            if running.cancelled():
                raise Fatal("stopped; the round goes on at the next start")
    print_outcome(running.result(), rounds.error)


def check_student(settings: Settings) -> None:
    """Raise `Fatal` for a student that can't be one, before anything was ever served: then it is a typing error.

    Later it may be a disk that is not mounted, and rounds wait for it.
    """
    try:
        names.check(settings.student)
    except Fatal:
        if ModelStore(settings.models_dir).current() is None:
            raise
        log.warning("the base student is not there now; rounds wait for it")


def main() -> None:
    """Do what the command line asks for."""

    def start(settings: Settings, once: bool = False) -> None:
        own = load(TrainerSettings)
        stop_tracing = tracing.start("trainer")
        run("trainer", train_once(settings, own) if once else work(settings, own))
        stop_tracing()

    try:
        command_line(start, lambda settings: start(settings, once=True))()
    except Fatal as fatal:
        exit_with("trainer", fatal)


if __name__ == "__main__":
    main()
