"""`make bench-trainer`: our rounds against sentence-transformers' own `trainer.train()` on the same pairs, and growth.

Both sides start from the same student with the same loss, batches, epochs and optimizer; ours also measures the dev
side, keeps the best step, writes checkpoints and tells how it goes. They take turns, and each side's best turn counts,
because machines are shared and noisy. Growth: what a dataset of 10^4, 10^5 and 10^6 pairs costs in time and memory,
with the training itself cut short. The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from scripts.bench_pairs import make_pairs
from shared.errors import Fatal
from shared.model_store import ModelStore
from shared.process import ROOT, configure_logging, exit_with
from shared.settings import Settings

ROWS, TURNS = 20_000, 3
SIZES, GROWTH_STEPS = (10_000, 100_000, 1_000_000), 300
LOOK_S = 0.05


class Measured:
    """A command with the most memory that it and its children had as their own, without mapped files."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.peak_mib = 0
        began = time.monotonic()
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            watching = threading.Thread(target=self._watch, args=(process.pid,), daemon=True)
            watching.start()
            assert process.stdout is not None
            self.output = process.stdout.read()
        self.seconds = time.monotonic() - began
        if process.returncode:
            raise Fatal(f"{' '.join(command[1:])} failed (see above)")

    def _watch(self, pid: int) -> None:
        try:
            root = psutil.Process(pid)
            while root.is_running():
                own = sum(_own_mib(process) for process in [root, *root.children(recursive=True)])
                self.peak_mib = max(self.peak_mib, own)
                time.sleep(LOOK_S)
        except psutil.Error:
            return


def _own_mib(process: psutil.Process) -> int:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)


class Ours:
    """A dataset of so many pairs, and rounds on it."""

    def __init__(self, folder: Path, pairs: Path, **settings: object) -> None:
        self.home = folder
        own = {f"PAIRWRIGHT_TRAINER_{name.upper()}": str(value) for name, value in settings.items()}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PAIRWRIGHT_TRAINER_")},
            "PAIRWRIGHT_HOME": str(folder), "PAIRWRIGHT_DATASET": "bench", "PAIRWRIGHT_LOG_LEVEL": "WARNING",
            "PAIRWRIGHT_TRAINER_TEACHER_EMBEDDINGS": "0",  # the other side has no teacher to look at
            **own,
        }  # fmt: skip
        self.import_s = self.run("dataset", "import", str(pairs)).seconds

    def run(self, *arguments: str) -> Measured:
        return Measured([sys.executable, "-m", "services.trainer", *arguments], self._environment)

    def round(self) -> tuple[dict[str, Any], Measured]:
        """Train once: what the version tells of it, and what it took."""
        took = self.run("train", "--once")
        store = ModelStore(Settings(home=self.home, dataset="bench").models_dir)
        newest = max([*store.versions(), *store.rejected()], key=lambda manifest: manifest.round)
        return newest.training | {"recipe": newest.recipe}, took

    def version(self) -> Path:
        """The folder of the current version: a student of the same kind for the other side."""
        store = ModelStore(Settings(home=self.home, dataset="bench").models_dir)
        return store.path(store.resolve("current"))


def write_pairs(count: int, file: Path) -> Path:
    with file.open("w") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in make_pairs(count))
    return file


def compare(folder: Path, rows: int, turns: int) -> dict[str, Any]:
    """Both sides in turns."""
    pairs = write_pairs(rows, folder / "pairs.jsonl")
    ours = Ours(folder / "home", pairs)
    first, _ = ours.round()  # makes the default student too
    recipe = first["recipe"]
    plain = [sys.executable, "-m", "scripts.bench_plain_trainer", str(pairs), str(ours.version())]
    plain += [str(recipe["epochs"]), str(recipe["batch_size"]), str(recipe["learning_rate"])]
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    peaks: dict[str, int] = {"ours": 0, "plain": 0}
    for turn in range(1, turns + 1):
        trained, took = ours.round()
        found["ours"].append(trained["pairs_s"])
        peaks["ours"] = max(peaks["ours"], took.peak_mib)
        other = Measured(plain, dict(os.environ))
        found["plain"].append(json.loads(other.output.splitlines()[-1])["pairs_s"])
        peaks["plain"] = max(peaks["plain"], other.peak_mib)
        print(f"turn {turn}: ours {found['ours'][-1]:.0f} pairs/s, plain {found['plain'][-1]:.0f} pairs/s", flush=True)
    best = {side: max(values) for side, values in found.items()}
    return {
        "ratio_to_plain": round(best["ours"] / best["plain"], 3),
        "pairs_s": best["ours"],
        "plain_pairs_s": best["plain"],
        "peak_mib": peaks["ours"],
        "plain_peak_mib": peaks["plain"],
        "rows": rows,
    }


def grow(folder: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """What each size costs."""
    found = []
    for size in sizes:
        pairs = write_pairs(size, folder / f"{size}.jsonl")
        ours = Ours(folder / f"home-{size}", pairs, epochs=1, max_steps=GROWTH_STEPS)
        trained, took = ours.round()
        one = {
            "pairs": size,
            "import_s": round(ours.import_s, 1),
            "prepare_s": trained["prepare_s"],
            "pairs_s": trained["pairs_s"],
            "round_s": round(took.seconds, 1),
            "peak_mib": took.peak_mib,
        }
        print(", ".join(f"{name} {value}" for name, value in one.items()), flush=True)
        found.append(one)
        pairs.unlink()
    return found


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="make bench-trainer")
    parser.add_argument("--rows", type=int, default=ROWS, help="pairs of the comparison")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help="pairs of the growth's steps")
    given = parser.parse_args()
    configure_logging("WARNING")
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as name:
        result = compare(Path(name), given.rows, given.turns)
        result["growth"] = grow(Path(name), given.sizes)
    result["load"] = [round(load, 1) for load in os.getloadavg()]
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("bench", fatal)
    except KeyboardInterrupt:
        sys.exit(130)
