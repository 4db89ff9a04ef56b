"""`make bench-generation`: what self-debiasing costs, over HTTP on the real service, all sides in one run.

Plain: every pair sampled from its label's own prompt. Debiased: the same sentences, labels and seeds with the counter
prompts as lanes. A step costs the engine what its lanes cost, so the goal is plain speed / mean lanes. The two sides
take turns, and each side's best turn counts, because machines are shared and noisy. The original's batching on
transformers (bench_original.py) at the same dtype, and, in those turns, the same work done by us: bare instructions,
two sentences for each sentence and label. Beside them our own transformers engine, one sample at a time. The last line
is one JSON object.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from scripts.demo import SENTENCES
from scripts.memory import pss_mib
from scripts.stack import Stack
from scripts.up import prepare_teacher
from shared import teacher
from shared.errors import Fatal
from shared.process import ROOT, configure_logging, exit_with
from shared.settings import Settings, load

MEAN_LANES = 2.0  # task sts: 1, 2 and 3 lanes for labels 1, 0.5 and 0, equally often
INPUTS, TURNS = 192, 3
REFERENCE_INPUTS = 8  # it is slow
START_WITHIN_S = 300.0
GOALS = {"ratio_to_lanes": 0.95, "speedup": 20.0}


class Side:
    """One way of writing the sentences, and its best turn."""

    def __init__(self, client: httpx.Client, inputs: int, decay_constant: float = 100.0, **plan: Any) -> None:
        self._client, self._plan = client, plan | {"decoding": {"decay_constant": decay_constant}}
        self._sentences = SENTENCES.read_text(encoding="utf-8").splitlines()[:inputs]
        self.pairs_s = self.tokens_s = 0.0

    def turn(self, seed: int) -> float:
        """Sentences written a second, whether accepted or not, from one job that tries each pair once."""
        # Bare text, as the original asks, for all sides.
        plan = {"prompt_form": "plain", "inputs": self._sentences, "attempts": 1, "seed": seed} | self._plan
        tokens = _tokens_drawn(self._client)
        answer = self._client.post("/generate", json=plan, headers={"Prefer": "wait=600"})
        if answer.status_code != 200:
            raise Fatal(f"POST /generate answered {answer.status_code}: {answer.text[:300]}")
        job = answer.json()
        pairs_s = float((job["accepted"] + job["rejected"]) / job["seconds"])
        if pairs_s > self.pairs_s:
            self.pairs_s, self.tokens_s = pairs_s, (_tokens_drawn(self._client) - tokens) / job["seconds"]
        return pairs_s


def _tokens_drawn(client: httpx.Client) -> float:
    found = re.search(r"^pairwright_generation_tokens_drawn (\S+)", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def compare(client: httpx.Client, inputs: int, turns: int) -> dict[str, Any]:
    """Plain and debiased, in turns."""
    plain, debiased = Side(client, inputs, decay_constant=0.0), Side(client, inputs)
    # The original's work: bare instructions, two sentences for each sentence and label.
    same = Side(client, inputs // 2, exemplars=0, pairs_per_label=2)
    sides = {"plain": plain, "debiased": debiased, "the original's work": same}
    plain.turn(seed=0)  # warm-up
    for seed in range(1, turns + 1):
        told = [f"{name} {side.turn(seed):.2f} pairs/s" for name, side in sides.items()]
        print(f"turn {seed}: {', '.join(told)}", flush=True)
    return {
        "plain_pairs_s": round(plain.pairs_s, 2),
        "debiased_pairs_s": round(debiased.pairs_s, 2),
        "mean_lanes": MEAN_LANES,
        "ratio_to_lanes": round(debiased.pairs_s / (plain.pairs_s / MEAN_LANES), 3),
        "plain_tokens_s": round(plain.tokens_s, 1),
        "debiased_tokens_s": round(debiased.tokens_s, 1),
        "same_work_pairs_s": round(same.pairs_s, 2),
    }


def default_dtype() -> str:
    """What the service takes on a CPU by itself."""
    return "bfloat16" if "bf16" in Path("/proc/cpuinfo").read_text() else "float32"


def original(settings: Settings, task: dict[str, Any], dtype: str, inputs: int) -> dict[str, Any]:
    """The original's batching, in a process of its own."""
    labels = task["labels"]
    samples = [
        [labels[name]["instruction"].replace("<X1>", sentence) for name in (label, *labels[label]["counter_labels"])]
        for sentence in SENTENCES.read_text(encoding="utf-8").splitlines()[:inputs]
        for label in labels
    ]
    model = teacher.locate(settings.teacher, settings.cache_dir)
    command = [sys.executable, "-m", "scripts.bench_original", model, dtype]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(samples), text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise Fatal("the original's batching failed (see above)")
    found = json.loads(done.stdout.splitlines()[-1])
    return {"reference_pairs_s": round(found["pairs_s"], 3), "reference_tokens_s": round(found["tokens_s"], 1)}


class PeakMemory:
    """The most memory of some processes together, looked at twice a second."""

    def __init__(self, stack: Stack) -> None:
        self.mib = 0
        self._stack, self._end = stack, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak."""
        self._end.set()
        self._thread.join()
        return self.mib

    def _watch(self) -> None:
        while not self._end.wait(0.5):
            self.mib = max(self.mib, pss_mib(list(self._stack.pids().values())))


@contextlib.contextmanager
def running(settings: Settings, engine: str) -> Iterator[tuple[Stack, httpx.Client]]:
    """The queue and the generation service with an engine, ready."""
    environment = {"PAIRWRIGHT_DATASET": settings.dataset, "PAIRWRIGHT_GENERATION_ENGINE": engine}
    with Stack(settings, environment, services=("generation",)) as stack:
        keys = {"Authorization": f"Bearer {settings.keys[0]}"} if settings.keys else {}
        with httpx.Client(base_url=stack.url("generation"), headers=keys, timeout=660) as client:
            wait_until_ready(stack)
            yield stack, client


def main() -> None:
    """Measure all sides, print."""
    parser = argparse.ArgumentParser(prog="make bench-generation")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="first sentences of a turn")
    parser.add_argument("--reference-inputs", type=int, default=REFERENCE_INPUTS, help="of the two slow sides")
    parser.add_argument("--turns", type=int, default=TURNS)
    given = parser.parse_args()
    configure_logging("WARNING")
    prepare_teacher()
    with tempfile.TemporaryDirectory() as home:
        settings = load(Settings).model_copy(update={"home": Path(home), "redis_url": None, "dataset": "bench"})
        began = time.monotonic()
        with running(settings, "vllm") as (stack, client):
            result: dict[str, Any] = {"start_s": round(time.monotonic() - began, 1)}
            memory = PeakMemory(stack)
            result |= compare(client, given.inputs, given.turns)
            result["peak_mib"] = memory.stop()
            dtype = result["dtype"] = stack.environment.get("PAIRWRIGHT_GENERATION_DTYPE") or default_dtype()
            task = next(task for task in client.get("/tasks").json() if task["task"] == "sts")
        result |= original(settings, task, dtype, given.reference_inputs)
        with running(settings, "transformers") as (_, client):
            side = Side(client, given.reference_inputs)
            side.turn(seed=1)
            result["transformers_pairs_s"] = round(side.pairs_s, 2)
    result |= {
        "speedup": round(result["same_work_pairs_s"] / result["reference_pairs_s"], 1),
        "teacher": settings.teacher,
        "device": _device(),
        "load": round(os.getloadavg()[0], 1),
    }
    for name, goal in GOALS.items():
        print(f"{name}: {result[name]} (goal {goal}: {'met' if result[name] >= goal else 'not met'})", flush=True)
    print(json.dumps(result), flush=True)


def _device() -> str:
    """`cpu`, or the GPU's name."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return "cpu"


def wait_until_ready(stack: Stack) -> None:
    """Until the engine is up. Raises `Fatal`."""
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        stack.check()
        if not stack.not_ready("generation"):
            return
        time.sleep(0.2)
    raise Fatal(f"the generation service was not ready within {START_WITHIN_S:.0f} s; see {stack.logs}")


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("bench", fatal)
    except KeyboardInterrupt:
        sys.exit(130)
