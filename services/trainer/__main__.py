"""`python -m services.trainer`: settings -> queue -> dataset -> worker. With a command: one round, or an evaluation."""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from services.trainer import student
from services.trainer.collector import Collector
from services.trainer.dataset import open_dataset, sole_writer
from services.trainer.progress import Progress, Reporter, claim_stdout, first_line
from services.trainer.rounds import Rounds
from services.trainer.settings import TrainerSettings
from services.trainer.worker import BLOCK_MS, Worker
from shared.model_store import ModelStore
from shared.process import Fatal, configure_logging, exit_with, run
from shared.queue import open_queue
from shared.redis_client import command_client, reading_client
from shared.settings import Settings, load
from shared.status import StatusBoard
from shared.stream import PairStream

log = logging.getLogger("services.trainer")


async def work() -> None:
    """Collect and train until SIGTERM or SIGINT."""
    common, own = load(Settings), load(TrainerSettings)
    configure_logging(common.log_level)
    student.check(common.student)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with (
        sole_writer(common.dataset_dir),
        open_dataset(common.dataset_dir) as dataset,
        open_queue(common.redis_url, common.queue_dir) as url,
    ):
        reading, commands = reading_client(url, BLOCK_MS / 1000), command_client(url)
        collector = Collector(PairStream(reading, common.dataset), PairStream(commands, common.dataset), dataset)
        board, store = StatusBoard(commands, common.dataset), ModelStore(common.models_dir)
        rounds = Rounds(collector, dataset, store, board, own, common.student)
        await Worker(collector, rounds, dataset, board, stopping).run()
        await asyncio.gather(reading.aclose(), commands.aclose())
    log.info("stopped")


def run_one_round(id_: int) -> None:
    """What the worker's child process does: run a round and tell how it goes as JSON lines on stdout."""
    reporter = Reporter(claim_stdout())
    try:
        common, own = load(Settings), load(TrainerSettings)
        configure_logging(common.log_level)
        from services.trainer.round import run_round

        with open_dataset(common.dataset_dir, read_only=True) as dataset:
            run_round(id_, dataset, ModelStore(common.models_dir), common, own, reporter.say)
    except Fatal as fatal:
        reporter.say(Progress(fault=str(fatal)))
        exit_with("trainer", fatal)
    except Exception as error:
        log.exception("round %d failed", id_)
        reporter.say(Progress(fault=f"{type(error).__name__}: {first_line(error)}"))
        sys.exit(1)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m services.trainer", description="Pairs in, student versions out.")
    commands = parser.add_subparsers(dest="command", metavar="[command]")
    one = commands.add_parser("round", help="run one planned round (what the worker does itself)")
    one.add_argument("id", type=int)
    scores = commands.add_parser("evaluate", help="Spearman x 100 on human-scored sentence pairs")
    scores.add_argument("model", help="current, previous, a version's id, default (untrained), a folder or a hub id")
    scores.add_argument("--sts", type=Path, required=True, metavar="DIR", help="a folder of STS files (*.tsv.gz)")
    scores.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def main() -> None:
    """Do what the command line says."""
    given = arguments()
    if given.command == "round":
        run_one_round(given.id)
    elif given.command == "evaluate":
        from services.trainer.evaluate import evaluate  # numpy and scipy, which the worker does without

        settings = load(Settings)
        configure_logging(settings.log_level)
        evaluate(settings, given.model, given.sts, given.json)
    else:
        run("trainer", work())


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("trainer", fatal)
