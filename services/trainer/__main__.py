"""`python -m services.trainer`: settings -> queue -> lease -> dataset -> worker. With a command: see `--help`."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from redis.asyncio import Redis

from services.trainer.commands.cli import parse
from services.trainer.dataset.store import Dataset, lock, open_dataset
from services.trainer.metrics import Metrics
from services.trainer.progress import Progress, Reporter
from services.trainer.settings import TrainerSettings
from services.trainer.transient_errors import is_transient
from services.trainer.worker.collector import Collector
from services.trainer.worker.health_server import endpoint
from services.trainer.worker.loop import BLOCK_MS, Worker
from services.trainer.worker.progress_bar import ProgressBar
from services.trainer.worker.round_requests import RoundRequests
from services.trainer.worker.scheduler import RoundScheduler
from shared import tracing
from shared.backoff import pause
from shared.errors import Fatal, first_line
from shared.heartbeat import Heartbeats
from shared.lease import ASK_S, Lease
from shared.logs import log_context
from shared.model_store import ModelStore
from shared.process import claim_stdout, configure_logging, exit_with, run
from shared.queue import open_queue
from shared.redis import command_client, reading_client
from shared.settings import Settings, load
from shared.stream import PairStream

log = logging.getLogger("services.trainer")


@dataclass(frozen=True)
class Parts:
    """What a trainer works with, once the dataset's lock is its own."""

    common: Settings
    own: TrainerSettings
    dataset: Dataset
    store: ModelStore
    reading: Redis
    commands: Redis
    metrics: Metrics

    def collector(self) -> Collector:
        """A new one for each lease: what the one before had read may be another's now."""
        return Collector(
            PairStream(self.reading, self.common.dataset), PairStream(self.commands, self.common.dataset), self.dataset
        )

    def rounds(self, collector: Collector, epoch: int, bar: ProgressBar) -> RoundScheduler:
        """The rounds under one lease."""
        return RoundScheduler(
            collector=collector,
            dataset=self.dataset,
            folder=self.common.dataset_dir,
            store=self.store,
            board=Heartbeats(self.commands, self.common.dataset),
            requests=RoundRequests(self.commands, self.common.dataset),
            settings=self.own,
            base=self.common.student,
            epoch=epoch,
            metrics=self.metrics,
            watch=bar.show,
        )


@contextlib.asynccontextmanager
async def parts(common: Settings, own: TrainerSettings, metrics: Metrics) -> AsyncIterator[Parts]:
    """Build them. Raises `Fatal`."""
    with open_dataset(common.dataset_dir) as dataset, open_queue(common.redis_url, common.queue_dir) as url:
        reading, commands = reading_client(url, BLOCK_MS / 1000), command_client(url)
        yield Parts(common, own, dataset, ModelStore(common.models_dir), reading, commands, metrics)
        await asyncio.gather(reading.aclose(), commands.aclose())


def stop_event() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def work(common: Settings, own: TrainerSettings) -> None:
    """Collect and train until SIGTERM or SIGINT, whenever no other trainer does."""
    check_student(common, ModelStore(common.models_dir))
    stopping, told = stop_event(), False
    metrics = Metrics(CollectorRegistry())
    ProcessCollector(registry=metrics.registry)
    with endpoint(own.host, own.port, metrics.registry, lambda: metrics.states):
        while not stopping.is_set():
            with lock(common.dataset_dir) as ours:
                if ours:
                    async with parts(common, own, metrics) as built:
                        await work_with(built, stopping)
                    continue
            if not told:
                told = True
                log.warning("another trainer works on %s; this one takes over when it is gone", common.dataset_dir)
            await pause(stopping, ASK_S)
    log.info("stopped")


async def work_with(built: Parts, stopping: asyncio.Event) -> None:
    """Work under one lease after the other."""
    lease = Lease(built.commands, built.common.dataset, "trainer", built.dataset.id)
    with ProgressBar() as bar:
        while await lease.take(built.store.epoch() + 1, stopping):
            fence(built.store, lease.epoch)
            collector = built.collector()
            rounds = built.rounds(collector, lease.epoch, bar)
            board = Heartbeats(built.commands, built.common.dataset)
            worker = Worker(collector, rounds, built.dataset, built.store, board, lease, stopping, built.metrics)
            await worker.run()
            await lease.release()


async def train_once(common: Settings, own: TrainerSettings) -> None:
    """One round now: here, or by the trainer that works on this dataset. Raises `Fatal` when nothing comes of it."""
    from services.trainer.commands.train_once import watch_elsewhere

    stopping = stop_event()
    with lock(common.dataset_dir) as ours, ProgressBar() as bar:
        async with parts(common, own, Metrics(CollectorRegistry())) as built:
            if not ours:
                await watch_elsewhere(built.commands, built.dataset, common.dataset, bar, stopping)
                return
            lease = Lease(built.commands, common.dataset, "trainer", built.dataset.id)
            if not await lease.take(built.store.epoch() + 1, stopping):
                return
            fence(built.store, lease.epoch)
            keeping = asyncio.create_task(lease.keep())
            rounds = built.rounds(built.collector(), lease.epoch, bar)
            running = asyncio.create_task(rounds.once())
            await asyncio.wait({running, asyncio.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
            keeping.cancel()
            if not running.done():
                running.cancel()
                await asyncio.wait({running})  # its child process ends with it
            await lease.release()
            if running.cancelled():
                raise Fatal("stopped; the round goes on at the next start")
            round_ = running.result()
    from services.trainer.commands.train_once import tell

    tell(round_, rounds.fault)


def fence(store: ModelStore, epoch: int) -> None:
    """Shut older trainers out of the store. A disk that refuses is told now, and tried again by every round."""
    try:
        store.fence(epoch)
    except OSError as error:
        log.warning("can't write to %s: %s", store.root, first_line(error))


def check_student(common: Settings, store: ModelStore) -> None:
    """Raise `Fatal` for a student that can't be one, before anything was ever served: then it is a typing error.

    Later it may be a disk that is not mounted, and rounds wait for it.
    """
    from services.trainer.students import names

    try:
        names.check(common.student)
    except Fatal:
        if store.current() is None:
            raise
        log.warning("the base student is not there now; rounds wait for it")


def run_one_round(id_: int, epoch: int) -> None:
    """What the worker's child process does: run a round and tell how it goes as JSON lines on stdout."""
    from services.trainer.students import names
    from services.trainer.training.distributed import ProcessGroup, launch

    reporter = Reporter(sys.stdout)
    home = Path()
    try:
        common, own = load(Settings), load(TrainerSettings)
        configure_logging(common.log_level, common.log_format, "trainer")
        home = common.home
        with open_dataset(common.dataset_dir, read_only=True) as dataset:
            base = dataset.round(id_).base
        if own.processes != 1 and not names.is_static(base):
            launch(own.processes or gpus(), ["round", str(id_), "--epoch", str(epoch)])
        reporter = Reporter(claim_stdout())
        from services.trainer.round import run_round

        team = ProcessGroup()
        say = reporter.say if team.is_first else (lambda _progress: None)
        with contextlib.ExitStack() as around:
            if team.is_first:
                around.callback(tracing.start("trainer"))
            parent = os.environ.get(tracing.CARRIER)
            around.enter_context(tracing.span("run round", parent=parent, round=id_))
            around.enter_context(log_context(round=id_))
            dataset = around.enter_context(open_dataset(common.dataset_dir, read_only=True))
            run_round(id_, dataset, ModelStore(common.models_dir), common, own, say, epoch, team)
    except Fatal as fatal:
        reporter.say(Progress(fault=str(fatal)))
        exit_with("trainer", fatal)
    except Exception as error:
        log.exception("round %d failed", id_)
        reporter.say(Progress(fault=f"{type(error).__name__}: {first_line(error)}", passing=is_transient(error, home)))
        sys.exit(1)


def gpus() -> int:
    """Processes for a round when nothing is set."""
    import torch

    return max(1, int(torch.cuda.device_count()))


@contextlib.contextmanager
def configured() -> Iterator[Settings]:
    """For commands: the settings, and logging as they say."""
    settings = load(Settings)
    configure_logging(settings.log_level, settings.log_format, "trainer")
    yield settings


def main() -> None:
    """Do what the command line says."""
    given: argparse.Namespace = parse()
    if given.command == "round":
        run_one_round(given.id, given.epoch)
        return
    with configured() as settings:
        if given.command in (None, "train"):
            own = load(TrainerSettings)
            stop_tracing = tracing.start("trainer")
            run("trainer", train_once(settings, own) if given.command and given.once else work(settings, own))
            stop_tracing()
        elif given.command == "evaluate":
            from services.trainer.commands.evaluate import evaluate  # numpy and scipy, which the worker does without

            evaluate(settings, given)
        elif given.command == "dataset":
            from services.trainer.commands.dataset import dataset

            dataset(settings, given)
        else:
            from services.trainer.commands.versions import versions

            versions(settings, load(TrainerSettings), given)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # whoever read our answer has read enough
        os._exit(0)
    except Fatal as fatal:
        exit_with("trainer", fatal)
