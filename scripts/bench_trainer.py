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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.benchmark import anonymous_mib, make_pairs, peak_memory, run
from shared.errors import Fatal
from shared.model_store import ModelStore
from shared.process import ROOT
from shared.settings import Settings

TRAINER = ("-m", "services.trainer")


def measure(arguments: list[str], environment: Mapping[str, str]) -> tuple[str, float, int]:
    """Run Python with `arguments`: what it printed, seconds, and all its processes' peak in MiB. Raises `Fatal`."""
    began, command = time.monotonic(), [sys.executable, *arguments]
    with (
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process,
        peak_memory(lambda: [process.pid], anonymous_mib, every_s=0.05) as measured,
    ):
        output, _ = process.communicate()
    if process.returncode:
        raise Fatal(f"{' '.join(arguments)} failed (see above)")
    return output, time.monotonic() - began, max(measured)


class Ours:
    """A dataset of so many pairs, and rounds on it."""

    def __init__(self, folder: Path, pairs: Path, **settings: object) -> None:
        settings |= {"teacher_embeddings": 0}  # the other side has no teacher to look at
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PAIRWRIGHT_TRAINER_")}
        environment |= {f"PAIRWRIGHT_TRAINER_{name.upper()}": str(value) for name, value in settings.items()}
        common = {"HOME": str(folder), "DATASET": "bench", "LOG_LEVEL": "WARNING"}
        self._environment = environment | {f"PAIRWRIGHT_{name}": value for name, value in common.items()}
        self._store = ModelStore(Settings(home=folder, dataset="bench").models_dir)
        _, self.import_s, _ = measure([*TRAINER, "dataset", "import", str(pairs)], self._environment)

    def round(self) -> dict[str, Any]:
        """Train once: what the version tells of it, `recipe`, and what it took: `round_s` and `peak_mib`."""
        _, seconds, peak_mib = measure([*TRAINER, "train", "--once"], self._environment)
        newest = max([*self._store.versions(), *self._store.rejected()], key=lambda manifest: manifest.round)
        return newest.training | {"recipe": newest.recipe, "round_s": round(seconds, 1), "peak_mib": peak_mib}

    def version(self) -> Path:
        """The folder of the current version: a student of the same kind for the other side."""
        return self._store.path(self._store.resolve("current"))


def write_pairs(count: int, file: Path) -> Path:
    """A file of made-up pairs."""
    with file.open("w") as lines:
        lines.writelines(pair.model_dump_json() + "\n" for pair in make_pairs(count))
    return file


def compare(folder: Path, rows: int, turns: int) -> dict[str, Any]:
    """Both sides in turns."""
    pairs = write_pairs(rows, folder / "pairs.jsonl")
    ours = Ours(folder / "home", pairs)
    recipe = ours.round()["recipe"]  # makes the default student too
    plain = ["-m", "scripts.bench_plain_trainer", str(pairs), str(ours.version())]
    plain += [str(recipe[name]) for name in ("epochs", "batch_size", "learning_rate")]
    best, plain_best, peak, plain_peak = 0.0, 0.0, 0, 0
    for turn in range(1, turns + 1):
        trained = ours.round()
        output, _, plain_mib = measure(plain, os.environ)
        plain_rate = json.loads(output.splitlines()[-1])["pairs_s"]
        best, plain_best = max(best, trained["pairs_s"]), max(plain_best, plain_rate)
        peak, plain_peak = max(peak, trained["peak_mib"]), max(plain_peak, plain_mib)
        print(f"turn {turn}: ours {trained['pairs_s']:.0f} pairs/s, plain {plain_rate:.0f} pairs/s", flush=True)
    result = {"ratio_to_plain": round(best / plain_best, 3), "pairs_s": best, "plain_pairs_s": plain_best}
    return result | {"peak_mib": peak, "plain_peak_mib": plain_peak, "rows": rows}


def grow(folder: Path, size: int) -> dict[str, Any]:
    """What a dataset of this size costs."""
    pairs = write_pairs(size, folder / f"{size}.jsonl")
    ours = Ours(folder / f"home-{size}", pairs, epochs=1, max_steps=300)
    trained = ours.round()
    pairs.unlink()
    costs = {"pairs": size, "import_s": round(ours.import_s, 1)}
    costs |= {name: trained[name] for name in ("prepare_s", "pairs_s", "round_s", "peak_mib")}
    print(", ".join(f"{name} {value}" for name, value in costs.items()), flush=True)
    return costs


def main() -> dict[str, Any]:
    """Measure both."""
    parser = argparse.ArgumentParser(prog="make bench-trainer")
    parser.add_argument("--rows", type=int, default=20_000, help="pairs of the comparison")
    parser.add_argument("--turns", type=int, default=3)
    sizes = [10_000, 100_000, 1_000_000]
    parser.add_argument("--sizes", type=int, nargs="*", default=sizes, help="pairs of the growth's steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as name:
        result = compare(Path(name), options.rows, options.turns)
        result["growth"] = [grow(Path(name), size) for size in options.sizes]
    return result | {"load": [round(load, 1) for load in os.getloadavg()]}


if __name__ == "__main__":
    run(main)
