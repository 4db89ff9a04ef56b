"""`make bench`: what self-debiasing costs, over HTTP on the real service, both sides in one run.

Plain: every pair sampled from its label's own prompt. Debiased: the same sentences, labels and seeds with the counter
prompts as lanes. A step costs the engine what its lanes cost, so the goal is plain speed / mean lanes. The two sides
take turns, and each side's best turn counts, because machines are shared and noisy. Then the same debiased work on the
plain transformers engine, one sample at a time, at the same dtype. The last line is one JSON object.
"""

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from scripts.demo import SENTENCES
from scripts.stack import Stack
from scripts.up import prepare_teacher
from shared.process import Fatal, configure_logging, exit_with
from shared.settings import Settings, load

MEAN_LANES = 2.0  # task sts: 1, 2 and 3 lanes for labels 1, 0.5 and 0, equally often
INPUTS, TURNS = 96, 3
REFERENCE_INPUTS = 12  # it is slow
START_WITHIN_S = 300.0


def samples_per_second(client: httpx.Client, decay_constant: float, seed: int, inputs: int = INPUTS) -> float:
    """Sentences written a second, whether accepted or not, from one job that tries each pair once."""
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()[:inputs]
    plan = {"inputs": sentences, "attempts": 1, "seed": seed, "decoding": {"decay_constant": decay_constant}}
    answer = client.post("/generate", json=plan, headers={"Prefer": "wait=600"})
    if answer.status_code != 200:
        raise Fatal(f"POST /generate answered {answer.status_code}: {answer.text[:300]}")
    job = answer.json()
    return float((job["accepted"] + job["rejected"]) / job["seconds"])


def measure(client: httpx.Client) -> dict[str, Any]:
    """Both sides, in turns."""
    samples_per_second(client, 0.0, seed=0)  # warm-up
    plain, debiased = [], []
    for turn in range(1, TURNS + 1):
        plain.append(samples_per_second(client, 0.0, seed=turn))
        debiased.append(samples_per_second(client, 100.0, seed=turn))
        print(f"turn {turn}: plain {plain[-1]:.2f} pairs/s, debiased {debiased[-1]:.2f} pairs/s", flush=True)
    ratio = max(debiased) / (max(plain) / MEAN_LANES)
    return {
        "plain_pairs_s": round(max(plain), 2),
        "debiased_pairs_s": round(max(debiased), 2),
        "mean_lanes": MEAN_LANES,
        "ratio_to_lanes": round(ratio, 3),
    }


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
    """Measure both engines, print."""
    configure_logging("WARNING")
    prepare_teacher()
    with tempfile.TemporaryDirectory() as home:
        settings = load(Settings).model_copy(update={"home": Path(home), "redis_url": None, "dataset": "bench"})
        began = time.monotonic()
        with running(settings, "vllm") as (stack, client):
            result = {"start_s": round(time.monotonic() - began, 1)} | measure(client)
            result["dtype"] = stack.environment.get("PAIRWRIGHT_GENERATION_DTYPE", "bfloat16")
        with running(settings, "transformers") as (_, client):
            reference = samples_per_second(client, 100.0, seed=1, inputs=REFERENCE_INPUTS)
    result |= {
        "reference_pairs_s": round(reference, 2),
        "speedup": round(result["debiased_pairs_s"] / reference, 1),
        "teacher": settings.teacher,
        "device": "cuda" if shutil.which("nvidia-smi") else "cpu",
    }
    print(json.dumps(result), flush=True)


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
