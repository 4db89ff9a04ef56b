"""A round on a real Ray cluster of two nodes: published through a death, and refused in one line."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError

from services.trainer.cluster.rounds import _cause, run_round_on_cluster
from services.trainer.settings import TrainerSettings
from services.trainer.training.checkpoints import FILE_LIST
from services.trainer.training.recipe import recipe_for
from shared.errors import Fatal
from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from tests.support.pairs import make_pairs, plan, records
from tests.support.trainer import ROOT
from tests.support.trainer_homes import Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500), pytest.mark.xdist_group("ray")]

BATCH, EPOCHS = 8, 12


def workers() -> list[psutil.Process]:
    """The processes that Ray Train started."""
    return [one for one in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(one.info["cmdline"] or ())]


def test_the_command_publishes_a_round_of_two_machines_though_one_s_process_is_killed(
    cluster: Cluster, own_server: EmbeddedServer, home: Home, plain_encoder: Path
) -> None:
    home.dataset.add(records(make_pairs(300)))
    own = {"EPOCHS": EPOCHS, "LEARNING_RATE": 1e-4, "LOSS": "mnrl", "BATCH_SIZE": BATCH, "CHECKPOINT_SECONDS": 0}
    common = {"HOME": home.settings.home, "REDIS_URL": own_server.url, "STUDENT": plain_encoder}
    environment = {f"PAIRWRIGHT_TRAINER_{name}": str(value) for name, value in own.items()}
    environment |= {f"PAIRWRIGHT_{name}": str(value) for name, value in common.items()}
    command = [sys.executable, "-m", "services.trainer", "train", "--once", "--cluster", cluster.address]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        checkpoints = home.settings.dataset_dir / "rounds" / "1" / "checkpoints"
        while not any(checkpoints.glob(f"*/{FILE_LIST}")) and process.poll() is None:
            time.sleep(0.05)
        both = workers()
        both[-1].send_signal(signal.SIGKILL)
        output, errors = process.communicate(timeout=400)
    store = ModelStore(home.settings.models_dir)
    assert len(both) == 2
    assert (process.returncode, output) == (0, f"round 1 is published as {store.current()}\n"), errors[-3000:]
    manifest = store.verify("current")
    assert manifest.training["resumed_at"] >= 10
    recipe = recipe_for(TrainerSettings(epochs=EPOCHS, batch_size=BATCH), False, 16, 1)
    assert manifest.training["steps"] <= recipe.steps(manifest.split["train"], 2)  # rounds down, each epoch
    # All rows of both batches are candidates: an untrained encoder's loss is near the logarithm of their number.
    first = home.dataset.curves(1)["loss"][0][1]
    assert math.log(2 * BATCH) + 0.5 < first < math.log(4 * BATCH) + 0.7
    with closing(sqlite3.connect(home.settings.dataset_dir / "pairs.sqlite")) as file:
        assert file.execute("SELECT count(*) FROM cosine").fetchone() == (300,)
    assert not (home.settings.dataset_dir / "rounds").exists()


def test_a_cluster_that_is_none_is_one_line(home: Home, plain_encoder: Path) -> None:
    home.dataset.add(records(make_pairs(60)))
    round_ = plan(home.dataset, 1, plain_encoder)
    for address, message in (("127.0.0.1:9", "there is no cluster at"), ("ray://127.0.0.1:1", "is a client's")):
        with pytest.raises(Fatal, match=message):
            run_round_on_cluster(address, round_.id, home.dataset, home.settings, TrainerSettings(), lambda _: None)


def test_what_ended_a_round_comes_before_what_followed_from_it() -> None:
    lost, followed, ours = RayActorError(), RuntimeError("Connection closed by peer"), Fatal("no such student")
    assert str(_cause(WorkerGroupError("", {0: followed, 1: ours}))) == "no such student"
    assert "a process of the round died" in str(_cause(WorkerGroupError("", {0: followed, 1: lost})))
    assert _cause(WorkerGroupError("", {0: followed})) is followed
