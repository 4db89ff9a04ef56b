"""`python -m services.trainer round ID`: what the worker's child process does."""

import contextlib
import errno
import logging
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.trainer.commands.cluster import check_installed
from services.trainer.dataset.store import Dataset, open_dataset
from services.trainer.progress import Progress, Reporter
from services.trainer.settings import TrainerSettings
from services.trainer.students import names
from services.trainer.training.distributed import ProcessGroup, launch
from shared import tracing
from shared.errors import Fatal, first_line
from shared.logs import log_context
from shared.model_store import Fenced, ModelStore
from shared.process import claim_stdout, configure_logging, exit_with
from shared.settings import Settings, load

log = logging.getLogger("services.trainer")

TRANSIENT = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EFBIG}
LEAST_FREE_BYTES = 32 * 2**20


def run_one_round(id_: Annotated[int, typer.Argument(metavar="ID")], epoch: int = 0) -> None:
    """Run one planned round (what the trainer does itself), and report how it goes as JSON lines."""
    reporter, home = Reporter(sys.stdout), Path()
    try:
        common, own = load(Settings), load(TrainerSettings)
        configure_logging(common.log_level, common.log_format, "trainer")
        home = common.home
        with contextlib.ExitStack() as stack:
            dataset = stack.enter_context(open_dataset(common.dataset_dir, read_only=True))
            may_be_shared = id_ != 0 and not names.is_static(dataset.round(id_).base)
            if may_be_shared and own.cluster is None and own.processes != 1:
                launch(own.processes or _count_gpus(), ["round", str(id_), "--epoch", str(epoch)])
            reporter = Reporter(claim_stdout())
            if may_be_shared and own.cluster is not None:
                return _run_on_cluster(own.cluster, id_, dataset, common, own, reporter, epoch)
            from services.trainer.round import run_round  # not before: libraries may print when they are imported

            group = ProcessGroup()
            report_progress = reporter.report if group.is_first else (lambda _progress: None)
            if group.is_first:
                stack.callback(tracing.start("trainer"))
            stack.enter_context(tracing.span("run round", parent=os.environ.get(tracing.CARRIER), round=id_))
            stack.enter_context(log_context(round=id_))
            run_round(id_, dataset, ModelStore(common.models_dir), common, own, report_progress, epoch, group)
    except Fatal as fatal:
        reporter.report(Progress(error=str(fatal)))
        exit_with("trainer", fatal)
    except Exception as error:
        log.exception("round %d failed", id_)
        message = f"{type(error).__name__}: {first_line(error)}"
        reporter.report(Progress(error=message, transient=is_transient(error, home)))
        sys.exit(1)


def _run_on_cluster(
    address: str, id_: int, dataset: Dataset, common: Settings, own: TrainerSettings, reporter: Reporter, epoch: int
) -> None:
    check_installed()
    from services.trainer.cluster.rounds import run_round_on_cluster

    with log_context(round=id_):
        run_round_on_cluster(address, id_, dataset, common, own, reporter.report, epoch)


def _count_gpus() -> int:
    import torch

    return max(1, int(torch.cuda.device_count()))


def is_transient(error: BaseException, home: Path) -> bool:
    """Whether an error is the machine's and none of the round's doing; libraries wrap a full disk in their own."""
    if (
        isinstance(error, Fenced | sqlite3.OperationalError)
        or (isinstance(error, OSError) and error.errno in TRANSIENT)
        or any(text in str(error) for text in ("No space left", "disk is full"))
        or (error.__cause__ is not None and is_transient(error.__cause__, home))
    ):
        return True
    try:
        return shutil.disk_usage(home).free < LEAST_FREE_BYTES
    except OSError:
        return True
