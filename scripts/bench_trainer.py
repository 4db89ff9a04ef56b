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
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench_pairs import make_pairs
from scripts.benchmark import run
from scripts.memory import PeakMemory, anonymous_mib
from shared.errors import Fatal
from shared.model_store import ModelStore
from shared.process import ROOT
from shared.settings import Settings

ROWS, TURNS = 20_000, 3
SIZES, GROWTH_STEPS = (10_000, 100_000, 1_000_000), 300
MEASURE_EVERY_S = 0.05


@dataclass(frozen=True)
class Measured:
    """What a command printed and took, all its processes together."""

    output: str
    seconds: float
    peak_mib: int


def measure(arguments: list[str], environment: dict[str, str]) -> Measured:
    """Run Python with `arguments`. Raises `Fatal`."""
    began, command = time.monotonic(), [sys.executable, *arguments]
    with (
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process,
        PeakMemory(lambda: [process.pid], anonymous_mib, MEASURE_EVERY_S) as memory,
    ):
        output, _ = process.communicate()
    if process.returncode:
        raise Fatal(f"{' '.join(arguments)} failed (see above)")
    return Measured(output, time.monotonic() - began, memory.mib)


class Ours:
    """A dataset of so many pairs, and rounds on it."""

    def __init__(self, folder: Path, pairs: Path, **settings: object) -> None:
        own = {f"PAIRWRIGHT_TRAINER_{name.upper()}": str(value) for name, value in settings.items()}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PAIRWRIGHT_TRAINER_")},
            "PAIRWRIGHT_HOME": str(folder), "PAIRWRIGHT_DATASET": "bench", "PAIRWRIGHT_LOG_LEVEL": "WARNING",
            "PAIRWRIGHT_TRAINER_TEACHER_EMBEDDINGS": "0",  # the other side has no teacher to look at
            **own,
        }  # fmt: skip
        self._store = ModelStore(Settings(home=folder, dataset="bench").models_dir)
        self.import_s = self._run("dataset", "import", str(pairs)).seconds

    def _run(self, *arguments: str) -> Measured:
        return measure(["-m", "services.trainer", *arguments], self._environment)

    def round(self) -> tuple[dict[str, Any], Measured]:
        """Train once: what the version tells of it, and what it took."""
        measured = self._run("train", "--once")
        newest = max([*self._store.versions(), *self._store.rejected()], key=lambda manifest: manifest.round)
        return newest.training | {"recipe": newest.recipe}, measured

    def version(self) -> Path:
        """The folder of the current version: a student of the same kind for the other side."""
        return self._store.path(self._store.resolve("current"))


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
    plain = ["-m", "scripts.bench_plain_trainer", str(pairs), str(ours.version())]
    plain += [str(recipe[name]) for name in ("epochs", "batch_size", "learning_rate")]
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    peaks: dict[str, int] = {"ours": 0, "plain": 0}
    for turn in range(1, turns + 1):
        trained, round_measured = ours.round()
        plain_measured = measure(plain, dict(os.environ))
        trained_plain = json.loads(plain_measured.output.splitlines()[-1])
        for side, pairs_s, measured in (
            ("ours", trained["pairs_s"], round_measured),
            ("plain", trained_plain["pairs_s"], plain_measured),
        ):
            rates[side].append(pairs_s)
            peaks[side] = max(peaks[side], measured.peak_mib)
        print(f"turn {turn}: ours {rates['ours'][-1]:.0f} pairs/s, plain {rates['plain'][-1]:.0f} pairs/s", flush=True)
    best = {side: max(values) for side, values in rates.items()}
    return {
        "ratio_to_plain": round(best["ours"] / best["plain"], 3),
        "pairs_s": best["ours"],
        "plain_pairs_s": best["plain"],
        "peak_mib": peaks["ours"],
        "plain_peak_mib": peaks["plain"],
        "rows": rows,
    }


def grow(folder: Path, size: int) -> dict[str, Any]:
    """What a dataset of this size costs."""
    pairs = write_pairs(size, folder / f"{size}.jsonl")
    ours = Ours(folder / f"home-{size}", pairs, epochs=1, max_steps=GROWTH_STEPS)
    trained, measured = ours.round()
    pairs.unlink()
    costs = {
        "pairs": size,
        "import_s": round(ours.import_s, 1),
        "prepare_s": trained["prepare_s"],
        "pairs_s": trained["pairs_s"],
        "round_s": round(measured.seconds, 1),
        "peak_mib": measured.peak_mib,
    }
    print(", ".join(f"{name} {value}" for name, value in costs.items()), flush=True)
    return costs


def main() -> dict[str, Any]:
    """Measure both."""
    parser = argparse.ArgumentParser(prog="make bench-trainer")
    parser.add_argument("--rows", type=int, default=ROWS, help="pairs of the comparison")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help="pairs of the growth's steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as name:
        result = compare(Path(name), options.rows, options.turns)
        result["growth"] = [grow(Path(name), size) for size in options.sizes]
    return result | {"load": [round(load, 1) for load in os.getloadavg()]}


if __name__ == "__main__":
    run(main)
