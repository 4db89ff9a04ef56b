"""Writes named sets of pairs, each once, by the generation service's batch command."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import Fatal
from shared.process import ROOT


@dataclass(frozen=True)
class PairSet:
    """One set of pairs: a row of `grids/sets.json`."""

    name: str
    plan: Mapping[str, Any]
    """The body of `POST /generate`, without sentences: task, prompt form, exemplars, decoding, seed and so on."""
    sentences: tuple[int, int] | None = None
    """First line and number of lines of the sentence file that are sentence1; None: the teacher writes them."""
    teacher: str | None = None
    """Another teacher than the environment's: a folder, also as an environment variable, or a hub id."""


def read_sets(file: Path) -> list[PairSet]:
    """The sets of a file. Raises `Fatal`."""
    try:
        sets = [PairSet(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise Fatal(f"{file}: is not a list of pair sets: {error}") from None
    if len({one.name for one in sets}) < len(sets):
        raise Fatal(f"{file}: two sets have the same name")
    return sets


def generate(sets: list[PairSet], folder: Path, sentences: Path | None, together: int = 1) -> None:
    """Write every set that is not there yet, `together` at one time. Interrupted, it goes on from the batch command's
    journal. Raises `Fatal`."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(together) as processes:
        list(processes.map(lambda one: _write(one, folder, sentences), sets))


def _write(one: PairSet, folder: Path, sentences: Path | None) -> None:
    target, plan = folder / f"{one.name}.jsonl", folder / f"{one.name}.plan.json"
    if target.is_file():
        print(f"{one.name}: is there", flush=True)
        return
    plan.write_text(json.dumps(one.plan))
    command = [sys.executable, "-m", "services.generation", "generate", "--out", str(target), "--plan", str(plan)]
    if one.sentences is not None:
        command += ["--inputs", str(_inputs(one.name, *one.sentences, folder, sentences))]
    environment = os.environ | ({"PAIRWRIGHT_TEACHER": os.path.expandvars(one.teacher)} if one.teacher else {})
    with (folder / f"{one.name}.log").open("a") as log:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    if done.returncode:
        raise Fatal(f"{one.name}: generation failed; see {log.name}")
    print(f"{one.name}: {done.stdout.strip()}", flush=True)


def _inputs(name: str, first: int, count: int, folder: Path, sentences: Path | None) -> Path:
    if sentences is None:
        raise Fatal(f"{name}: needs sentences: name a file of them with --sentences")
    lines = sentences.read_text(encoding="utf-8").splitlines()[first : first + count]
    file = folder / f"{name}.inputs.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
