"""The generation side of the experiments: named sets of pairs, each written once by the batch command."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import Fatal
from shared.process import ROOT


@dataclass(frozen=True)
class PairSet:
    """One set of pairs: a row of a generation grid."""

    name: str
    plan: Mapping[str, Any]
    """The body of `POST /generate`, without sentences: task, prompt form, exemplars, decoding, seed and so on."""
    sentences: tuple[int, int] | None = None
    """First line and number of lines of the sentence file that are sentence1; None: the teacher writes them."""
    teacher: str | None = None
    """Another teacher than the environment's: a folder, also as an environment variable, or a hub id."""
    environment: Mapping[str, str] = field(default_factory=dict)


def read_grid(file: Path) -> list[PairSet]:
    """The rows of a generation grid. Raises `Fatal`."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        sets = [
            PairSet(**{**row, "sentences": tuple(row["sentences"]) if "sentences" in row else None}) for row in rows
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Fatal(f"{file}: is not a generation grid: {error}") from None
    if len({one.name for one in sets}) < len(sets):
        raise Fatal(f"{file}: two rows have the same name")
    return sets


def generate(sets: list[PairSet], folder: Path, sentences: Path | None, together: int = 1) -> None:
    """Write every set that is not there yet, `together` at one time. Interrupted, it goes on from the batch command's
    journal. Raises `Fatal`."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(together) as processes:
        list(processes.map(lambda one: _write(one, folder, sentences), sets))


def _write(one: PairSet, folder: Path, sentences: Path | None) -> None:
    target = folder / f"{one.name}.jsonl"
    if target.is_file():
        print(f"{one.name}: is there", flush=True)
        return
    command = [sys.executable, "-m", "services.generation", "generate", "--out", str(target)]
    plan = folder / f"{one.name}.plan.json"
    plan.write_text(json.dumps(one.plan))
    command += ["--plan", str(plan)]
    if one.sentences is not None:
        command += ["--inputs", str(_inputs(one, folder, sentences))]
    environment = (
        os.environ
        | dict(one.environment)
        | ({"PAIRWRIGHT_TEACHER": os.path.expandvars(one.teacher)} if one.teacher else {})
    )
    with (folder / f"{one.name}.log").open("a") as log:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    if done.returncode:
        raise Fatal(f"{one.name}: generation failed; see {log.name}")
    print(f"{one.name}: {done.stdout.strip()}", flush=True)


def _inputs(one: PairSet, folder: Path, sentences: Path | None) -> Path:
    if sentences is None:
        raise Fatal(f"{one.name}: takes given sentences: name a file of them with --sentences")
    assert one.sentences is not None
    first, count = one.sentences
    lines = sentences.read_text(encoding="utf-8").splitlines()[first : first + count]
    file = folder / f"{one.name}.inputs.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
