"""A round on a Ray cluster: Ray Train starts the processes that torchrun starts on one machine.

Only this process reads and writes the dataset: SQLite takes no other machine. It writes the round's rows into the
folder that all machines share, before the others train, and the cosines after the first one has published.
"""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from pydantic import SecretStr
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from services.trainer.dataset.store import Dataset, Origin, Round
from services.trainer.evaluation.sts import StsFile
from services.trainer.progress import Progress, Reporter
from services.trainer.round import (
    RoundRunner,
    begin,
    human_sets,
    keep_current_cosines,
    last_progress,
    publish_candidate,
    train_together,
)
from services.trainer.settings import TrainerSettings
from services.trainer.training.distributed import ProcessGroup
from services.trainer.training.fit import ReportProgress
from shared.errors import Fatal, first_line
from shared.manifest import Manifest
from shared.model_store import ModelStore
from shared.process import configure_logging
from shared.ray_cluster import Pool, connected, pool_for
from shared.settings import Settings

log = logging.getLogger(__name__)

TRIES = 3
LONGEST_WAIT_S = 6 * 3600
"""For the first process, which measures alone while the others wait. A dead one is noticed at once."""
STARTS = 3
"""How often Ray Train waits half a minute for room, where the number of processes follows the cluster."""


class ProcessDied(Exception):
    """It or its machine is gone: what is left goes on from a checkpoint when it is run again."""


@dataclass(frozen=True)
class Work:
    """What each process gets."""

    round: Round
    origins: list[Origin]
    common: Settings
    own: TrainerSettings
    human: dict[str, StsFile]
    epoch: int
    folder: str
    """In which the command runs: paths may count from there."""
    lines: Queue
    """Takes the first process's progress."""


def run_round_on_cluster(
    address: str,
    id_: int,
    dataset: Dataset,
    common: Settings,
    own: TrainerSettings,
    report_progress: ReportProgress,
    epoch: int = 0,
) -> None:
    """`run_round` by the processes of a cluster, again where one of them dies. Raises `Fatal` and what they raise."""
    store, round_ = ModelStore(common.models_dir), dataset.round(id_)
    manifest = begin(store, round_, epoch)
    if manifest is None:
        human, origins = human_sets(own), dataset.origins(round_)
        runner = RoundRunner(round_, dataset, origins, store, common, own, ProcessGroup(), human, report_progress)
        places = {"home": common.home.expanduser().resolve(), "cache": common.cache_dir, "api_keys": SecretStr("")}
        with connected(address, "trainer"), _followed(report_progress) as lines:
            work = Work(round_, origins, common.model_copy(update=places), own, human, epoch, str(Path.cwd()), lines)
            _train(runner, work)
        manifest = _published(store, round_, epoch)
        keep_current_cosines(dataset, store, common)
        shutil.rmtree(runner.folder.parent, ignore_errors=True)
    report_progress(last_progress(manifest))


def _published(store: ModelStore, round_: Round, epoch: int) -> Manifest:
    manifest = begin(store, round_, epoch)
    if manifest is None:
        raise Fatal(
            f"PAIRWRIGHT_HOME: the version of round {round_.id} isn't in {store.root}: do all machines share it?"
        )
    return manifest


@contextlib.contextmanager
def _followed(report_progress: ReportProgress) -> Iterator[Queue]:
    """A queue of lines, on this machine, that are reported as they come."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lines = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def follow() -> None:
        with contextlib.suppress(RayError):
            while (line := lines.get()) is not None:
                report_progress(Progress.model_validate_json(line))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        with contextlib.suppress(RayError):
            lines.put(None)
            thread.join()
            lines.shutdown(force=True)


def _train(runner: RoundRunner, work: Work) -> None:
    """To its end, by as many processes as the cluster has room for at each try, unless a number is set."""
    for left in reversed(range(TRIES)):
        pool = pool_for(work.own.processes, None, 1)
        runner.prepare(pool.actors)
        try:
            _trainer(runner, work, pool).fit()
            return
        except TrainingFailedError as error:
            cause = _cause(error)
            if isinstance(cause, Fatal) or not left:
                raise cause from None
            log.warning("a process of the round failed, all go on from the last checkpoint: %s", first_line(cause))


def _trainer(runner: RoundRunner, work: Work, pool: Pool) -> TorchTrainer:
    needs = {"CPU": pool.cpus} | ({"GPU": pool.gpus} if pool.gpus else {})
    failures = FailureConfig(max_failures=0, controller_failure_limit=-1 if work.own.processes else STARTS)
    return TorchTrainer(
        _work,
        train_loop_config={"work": work},
        scaling_config=ScalingConfig(num_workers=pool.actors, use_gpu=bool(pool.gpus), resources_per_worker=needs),
        torch_config=TorchConfig(timeout_s=LONGEST_WAIT_S),
        run_config=RunConfig(
            name=f"round-{work.round.id}", storage_path=str(runner.folder / "ray"), failure_config=failures
        ),
    )


def _cause(error: TrainingFailedError) -> Exception:
    """Our own error where there is one; else what Ray says of a process that died, before what others say of that."""
    if not isinstance(error, WorkerGroupError):
        # A machine that Ray still counted, for one: the next try sees how many there are.
        return ProcessDied(f"--cluster: {first_line(getattr(error, 'controller_failure', error))}")
    causes: list[Exception] = list(error.worker_failures.values())
    for cause in causes:
        if isinstance(cause, Fatal):
            return cause
    gone = [cause for cause in causes if type(cause).__module__.startswith("ray.")]
    if gone:
        return ProcessDied(f"--cluster: a process of the round died: {first_line(gone[0])}")
    return causes[0] if causes else ProcessDied(f"--cluster: {first_line(error)}")


class _Lines:
    """Takes lines that go to the command."""

    def __init__(self, lines: Queue) -> None:
        self._lines = lines

    def write(self, text: str, /) -> None:
        self._lines.put(text)

    def flush(self) -> None:
        pass


def _work(config: dict[str, Any]) -> None:
    """What each process does."""
    work: Work = config["work"]
    with contextlib.suppress(OSError):
        os.chdir(work.folder)
    configure_logging(work.common.log_level, work.common.log_format, "trainer")
    processes = ProcessGroup(tied_to_parent=False)  # Ray ends it with its machine's part of the cluster
    reporter = Reporter(_Lines(work.lines))
    report_progress = reporter.report if processes.is_first else (lambda _progress: None)
    store = ModelStore(work.common.models_dir)
    runner = RoundRunner(
        work.round, None, work.origins, store, work.common, work.own, processes, work.human, report_progress
    )
    runner.check_prepared()
    candidate = train_together(runner)
    if candidate is not None:
        publish_candidate(candidate, runner, work.epoch)
