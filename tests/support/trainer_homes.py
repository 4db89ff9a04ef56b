"""One dataset and its store in a folder, and running rounds on them: in this process, or in one that may be killed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from services.trainer.dataset.store import Dataset, Round
from services.trainer.progress import Progress
from services.trainer.round import run_round
from services.trainer.settings import TrainerSettings
from shared.manifest import Manifest
from shared.model_store import ModelStore
from shared.settings import Settings
from tests.support.trainer import ROOT


class Home:
    """A `PAIRWRIGHT_HOME` whose dataset is open in this process."""

    def __init__(self, home: Path, dataset: Dataset) -> None:
        self.settings = Settings(home=home)
        self.store = ModelStore(self.settings.models_dir)
        self.dataset = dataset

    def run(self, round_: Round, **own: Any) -> list[Progress]:
        """Run a round; all its progress."""
        reports: list[Progress] = []
        run_round(round_.id, self.dataset, self.store, self.settings, TrainerSettings(**own), reports.append)
        return reports

    def start(self, round_: Round, **own: Any) -> "subprocess.Popen[str]":
        """Run a round as the worker does, as a process that reports on stdout."""
        names = {f"PAIRWRIGHT_TRAINER_{name.upper()}": str(value) for name, value in own.items()}
        environment = os.environ | names | {"PAIRWRIGHT_HOME": str(self.settings.home)}
        command = [sys.executable, "-m", "services.trainer", "round", str(round_.id)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    def kill_at(self, step: int, round_: Round, **own: Any) -> int:
        """Run a round in a process and kill it at a step; the step it had reported last."""
        with self.start(round_, **own) as process:
            assert process.stdout is not None
            last = 0
            for line in process.stdout:
                last = int(json.loads(line).get("step", 0))
                if last >= step:
                    process.kill()
                    return last
        raise AssertionError(f"it ended at step {last}, with status {process.returncode}")

    def run_apart(self, round_: Round, **own: Any) -> list[Progress]:
        """Run a round as the worker does: nothing else in its process has set threads or libraries otherwise."""
        with self.start(round_, **own) as process:
            assert process.stdout is not None
            reports = [Progress.model_validate_json(line) for line in process.stdout]
        assert process.returncode == 0
        return reports

    def published(self, reports: list[Progress]) -> Manifest:
        """The version a round ended with, checked file by file."""
        assert reports[-1].version is not None
        assert self.store.current() == reports[-1].version
        return self.store.verify(reports[-1].version)
