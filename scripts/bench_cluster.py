"""`make bench-cluster`: what Ray costs. The same job by one engine outside Ray, by one actor, and by two; the reading.

All sides write the same pairs on the same cores: one engine has all of them, two share them out. Pairs a second count
from the first shard's begin to the last one's end, without the engines' start, which stands beside them. Reading: so
many passages in a folder of files, read, deduplicated and cut into shards, and the most memory that it took.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.benchmark import load_average, peak_memory, run
from scripts.stack import prepare_teacher, sentences
from shared.errors import Fatal

GOAL = 0.95
STORE = 256 * 2**20
"""Bytes of the object store of the node."""
FILES = 10


@contextlib.contextmanager
def cluster(cores: int) -> Iterator[str]:
    """A head without cores and a node with all; yields the address."""
    # Ray's workers would give way to every other process, also to what they are compared with.
    os.environ |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        started.add_node(num_cpus=cores, object_store_memory=STORE)
        yield str(started.address)
    finally:
        started.shutdown()


def generate(home: Path, out: Path, inputs: Path, seed: int, *more: object) -> dict[str, Any]:
    """The command's summary, with the seconds of the whole command. Raises `Fatal`."""
    command = ["generate", "--inputs", inputs, "--out", out, "--seed", seed, *more]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "services.generation", *map(str, command)],
        env=os.environ | {"PAIRWRIGHT_HOME": str(home)}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise Fatal(f"generate ended with {done.returncode}: {done.stderr[-500:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "whole_s": time.monotonic() - began}


def compare(home: Path, count: int, turns: int) -> dict[str, Any]:
    """Sentences written a second, whether accepted or not, each side's best of some turns."""
    inputs, cores = home / "inputs.txt", os.cpu_count() or 1
    inputs.write_text("\n".join(sentences()[:count]) + "\n")
    rates: dict[str, list[float]] = {"outside": [], "one actor": [], "two actors": []}
    starts: dict[str, float] = {}
    for turn in range(turns):
        for side in rates:
            more: list[object] = []
            with contextlib.ExitStack() as stack:
                if side != "outside":
                    actors = 1 if side == "one actor" else 2
                    address = stack.enter_context(cluster(cores))
                    more = ["--cluster", address, "--actors", actors, "--cpus-per-actor", max(1, cores // actors)]
                    more += ["--shard", max(8, count // 6)]
                summary = generate(home, home / f"{side}-{turn}", inputs, turn, *more)
            rates[side].append(summary["samples"] / summary["seconds"])
            starts[side] = min(starts.get(side, 1e9), summary["whole_s"] - summary["seconds"])
            print(f"turn {turn}: {side} {rates[side][-1]:.2f} pairs/s", flush=True)
    best = {side.replace(" ", "_"): round(max(values), 2) for side, values in rates.items()}
    result: dict[str, Any] = {f"{side}_pairs_s": rate for side, rate in best.items()}
    result |= {f"{side.replace(' ', '_')}_start_s": round(seconds, 1) for side, seconds in starts.items()}
    return result | {"ratio": round(best["one_actor"] / best["outside"], 3)}


def read_passages(home: Path, count: int) -> dict[str, Any]:
    """How long the inputs of a run take until all are numbered in shards, and the driver's most memory."""
    folder, out = home / "passages", home / "read"
    folder.mkdir()
    words = " ".join(sentences()).split()
    for part in range(FILES):
        with (folder / f"{part:02}.jsonl").open("w") as file:
            for number in range(part, count, FILES):
                # Every tenth comes twice.
                start = (number - number % 10 if number % 10 == 9 else number) * 7 % (len(words) - 60)
                key = number - 9 if number % 10 == 9 else number
                file.write(json.dumps({"text": f"Case {key}: {' '.join(words[start : start + 60])}"}) + "\n")
    size = sum(file.stat().st_size for file in folder.iterdir())
    with cluster(os.cpu_count() or 1) as address:
        command = ["generate", "--task", "retrieval", "--inputs", folder, "--out", out, "--cluster", address]
        began = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-m", "services.generation", *map(str, command)],
            env=os.environ | {"PAIRWRIGHT_HOME": str(home)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            with peak_memory(lambda: [process.pid]) as measured:
                while not (out / "work" / "inputs.json").exists():
                    if process.poll() is not None:
                        raise Fatal(f"generate ended: {process.stderr.read()[-500:]!r}" if process.stderr else "ended")
                    time.sleep(0.1)
            seconds = time.monotonic() - began
            process.kill()
    counts = json.loads((out / "work" / "inputs.json").read_text())
    result = {"passages": count, "passages_mib": round(size / 2**20, 1), "read_s": round(seconds, 1)}
    return result | {"read_driver_mib": max(measured), "different": counts["texts"]}


def main() -> dict[str, Any]:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="make bench-cluster")
    parser.add_argument("--only", choices=("pairs", "reading"), help="one part; without it, both")
    parser.add_argument("--inputs", type=int, default=96, help="first sentences of a turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--passages", type=int, default=100_000)
    options = parser.parse_args()
    prepare_teacher()
    result: dict[str, Any] = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as home:
        if options.only != "pairs":
            result |= read_passages(Path(home), options.passages)
        if options.only != "reading":
            result |= compare(Path(home), options.inputs, options.turns)
            met = "met" if result["ratio"] >= GOAL else "not met"
            print(f"ratio: {result['ratio']} (goal {GOAL}: {met})", flush=True)
    return result | {"load": load_average()}


if __name__ == "__main__":
    run(main)
