"""`make bench-trainer`: our rounds against sentence-transformers' own `trainer.train()` on the same pairs, and growth.

Both start from the same student with the same loss, batches, epochs and optimizer; ours also measures the dev side,
keeps the best step and writes checkpoints. They take turns, and each side's best turn counts, because machines are
shared and noisy. Growth: what 10^4, 10^5 and 10^6 pairs cost in time and memory, with the training itself cut short.
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

from scripts.benchmark import anonymous_mib, make_pairs, peak_memory, run
from shared.errors import Fatal
from shared.model_store import ModelStore
from shared.process import ROOT
from shared.settings import Settings


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
        peak_memory(lambda: [process.pid], anonymous_mib, every_s=0.05) as measured,
    ):
        output, _ = process.communicate()
    if process.returncode:
        raise Fatal(f"{' '.join(arguments)} failed (see above)")
    return Measured(output, time.monotonic() - began, max(measured))


TRAINER = ("-m", "services.trainer")


class Ours:
    """A dataset of so many pairs, and rounds on it."""

    def __init__(self, folder: Path, pairs: Path, **settings: object) -> None:
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PAIRWRIGHT_TRAINER_")},
            "PAIRWRIGHT_HOME": str(folder), "PAIRWRIGHT_DATASET": "bench", "PAIRWRIGHT_LOG_LEVEL": "WARNING",
            "PAIRWRIGHT_TRAINER_TEACHER_EMBEDDINGS": "0",  # the other side has no teacher to look at
            **{f"PAIRWRIGHT_TRAINER_{name.upper()}": str(value) for name, value in settings.items()},
        }  # fmt: skip
        self._store = ModelStore(Settings(home=folder, dataset="bench").models_dir)
        self.import_s = measure([*TRAINER, "dataset", "import", str(pairs)], self._environment).seconds

    def round(self) -> tuple[dict[str, Any], Measured]:
        """Train once: what the version tells of it, and what it took."""
        measured = measure([*TRAINER, "train", "--once"], self._environment)
        newest = max([*self._store.versions(), *self._store.rejected()], key=lambda manifest: manifest.round)
        return newest.training | {"recipe": newest.recipe}, measured

    def version(self) -> Path:
        """The folder of the current version: a student of the same kind for the other side."""
        return self._store.path(self._store.resolve("current"))


def write_pairs(count: int, file: Path) -> Path:
    """A file of made-up pairs."""
    with file.open("w") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in make_pairs(count))
    return file


def compare(folder: Path, rows: int, turns: int) -> dict[str, Any]:
    """Both sides in turns."""
    pairs = write_pairs(rows, folder / "pairs.jsonl")
    ours = Ours(folder / "home", pairs)
    recipe = ours.round()[0]["recipe"]  # makes the default student too
    plain = ["-m", "scripts.bench_plain_trainer", str(pairs), str(ours.version())]
    plain += [str(recipe[name]) for name in ("epochs", "batch_size", "learning_rate")]
    best, plain_best, peak, plain_peak = 0.0, 0.0, 0, 0
    for turn in range(1, turns + 1):
        trained, measured = ours.round()
        plain_measured = measure(plain, dict(os.environ))
        plain_rate = json.loads(plain_measured.output.splitlines()[-1])["pairs_s"]
        best, plain_best = max(best, trained["pairs_s"]), max(plain_best, plain_rate)
        peak, plain_peak = max(peak, measured.peak_mib), max(plain_peak, plain_measured.peak_mib)
        print(f"turn {turn}: ours {trained['pairs_s']:.0f} pairs/s, plain {plain_rate:.0f} pairs/s", flush=True)
    result = {"ratio_to_plain": round(best / plain_best, 3), "pairs_s": best, "plain_pairs_s": plain_best}
    return result | {"peak_mib": peak, "plain_peak_mib": plain_peak, "rows": rows}


def grow(folder: Path, size: int) -> dict[str, Any]:
    """What a dataset of this size costs."""
    pairs = write_pairs(size, folder / f"{size}.jsonl")
    ours = Ours(folder / f"home-{size}", pairs, epochs=1, max_steps=300)
    trained, measured = ours.round()
    pairs.unlink()
    costs = {"pairs": size, "import_s": round(ours.import_s, 1)}
    costs |= {"prepare_s": trained["prepare_s"], "pairs_s": trained["pairs_s"]}
    costs |= {"round_s": round(measured.seconds, 1), "peak_mib": measured.peak_mib}
    print(", ".join(f"{name} {value}" for name, value in costs.items()), flush=True)
    return costs


def main() -> dict[str, Any]:
    """Measure both."""
    parser = argparse.ArgumentParser(prog="make bench-trainer")
    parser.add_argument("--rows", type=int, default=20_000, help="pairs of the comparison")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[10**4, 10**5, 10**6], help="pairs of the growth's steps"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as name:
        result = compare(Path(name), options.rows, options.turns)
        result["growth"] = [grow(Path(name), size) for size in options.sizes]
    return result | {"load": [round(load, 1) for load in os.getloadavg()]}


if __name__ == "__main__":
    run(main)
