"""`make bench-generation`: what self-debiasing costs, over HTTP on the real service, all sides in one run.

Plain: every pair sampled from its label's own prompt. Debiased: the same sentences, labels and seeds with the counter
prompts as lanes; its goal is plain speed / mean lanes. The original's batching on transformers (bench_original.py) at
the same dtype, and the same work done by us: bare instructions, two sentences for each sentence and label. Our own
transformers engine, one sample at a time. Sides take turns, and each side's best turn counts, because machines are
shared and noisy.

Passages: queries for passages of about 300 tokens, against plain vLLM on the same prompts; and `/rerank` of as many
such passages, new ones and again by another query, against vLLM's own prompt log-likelihoods.
"""

import argparse
import contextlib
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from scripts.benchmark import load_average, peak_memory, run, running
from scripts.stack import Stack, prepare_teacher, printed_json, sentences
from shared import query_prompt, teacher
from shared.errors import Fatal
from shared.settings import Settings, load

PASSAGE_CHARS = 1300  # about 300 tokens with the instruction
QUERIES = ("Who repairs the shower when it is broken?", "When can we have breakfast on a Sunday?")
MEAN_LANES = 2.0  # task sts: 1, 2 and 3 lanes for labels 1, 0.5 and 0, equally often
GOALS = {"ratio_to_lanes": 0.95, "speedup": 20.0}


class Side:
    """One way of writing the sentences, and its best turn."""

    def __init__(self, client: httpx.Client, inputs: int, decay_constant: float = 100.0, **plan: Any) -> None:
        self._client, self._plan = client, plan | {"decoding": {"decay_constant": decay_constant}}
        self._sentences = sentences()[:inputs]
        self.pairs_s = self.tokens_s = 0.0

    def turn(self, seed: int) -> float:
        """Sentences written a second, whether accepted or not, from one job that tries each pair once."""
        # Bare text, as the original asks, for all sides.
        plan = {"prompt_form": "plain", "inputs": self._sentences, "attempts": 1, "seed": seed} | self._plan
        tokens = self._tokens_drawn()
        answer = self._client.post("/generate", json=plan, headers={"Prefer": "wait=600"})
        if answer.status_code != 200:
            raise Fatal(f"POST /generate answered {answer.status_code}: {answer.text[:300]}")
        job = answer.json()
        pairs_s = float((job["accepted"] + job["rejected"]) / job["seconds"])
        if pairs_s > self.pairs_s:
            self.pairs_s, self.tokens_s = pairs_s, (self._tokens_drawn() - tokens) / job["seconds"]
        return pairs_s

    def _tokens_drawn(self) -> float:
        metrics = self._client.get("/metrics").text
        value = re.search(r"^pairwright_generation_tokens_drawn (\S+)", metrics, re.MULTILINE)
        return float(value[1]) if value else 0.0


def compare(client: httpx.Client, inputs: int, turns: int) -> dict[str, Any]:
    """Plain, debiased and the original's work, in turns."""
    plain, debiased = Side(client, inputs, decay_constant=0.0), Side(client, inputs)
    # The original's work: bare instructions, two sentences for each sentence and label.
    same = Side(client, inputs // 2, exemplars=0, pairs_per_label=2)
    sides = {"plain": plain, "debiased": debiased, "the original's work": same}
    plain.turn(seed=0)  # warm-up
    for seed in range(1, turns + 1):
        rates = [f"{name} {side.turn(seed):.2f} pairs/s" for name, side in sides.items()]
        print(f"turn {seed}: {', '.join(rates)}", flush=True)
    ratio = round(debiased.pairs_s / (plain.pairs_s / MEAN_LANES), 3)
    result = {"plain_pairs_s": round(plain.pairs_s, 2), "debiased_pairs_s": round(debiased.pairs_s, 2)}
    result |= {"mean_lanes": MEAN_LANES, "ratio_to_lanes": ratio}
    result |= {"plain_tokens_s": round(plain.tokens_s, 1), "debiased_tokens_s": round(debiased.tokens_s, 1)}
    return result | {"same_work_pairs_s": round(same.pairs_s, 2)}


class Passages:
    """Passages that nobody has read before, from the demo's sentences: each begins with another one."""

    def __init__(self) -> None:
        self._sentences, self._next = sentences(), 0

    def take(self, count: int) -> list[str]:
        """The next ones."""
        return [self._passage() for _ in range(count)]

    def _passage(self) -> str:
        self._next += 1
        # Another step for each round through the sentences: no passage comes twice.
        step, place = divmod(self._next, len(self._sentences))
        text = f"Case {self._next}:"
        while len(text) < PASSAGE_CHARS:
            text += f" {self._sentences[place % len(self._sentences)]}"
            place += 2 * step + 1
        return text


def queries_s(client: httpx.Client, texts: list[str], seed: int) -> float:
    """Queries written a second, whether accepted or not: one for each passage, in bare text."""
    plan = {"task": "retrieval", "labels": ["question"], "inputs": texts, "prompt_form": "plain", "exemplars": 0}
    plan |= {"attempts": 1, "dry_run": True, "decoding": {"decay_constant": 0.0}, "seed": seed}
    answer = client.post("/generate", json=plan, headers={"Prefer": "wait=600"})
    if answer.status_code != 200:
        raise Fatal(f"POST /generate answered {answer.status_code}: {answer.text[:300]}")
    job = answer.json()
    return float((job["accepted"] + job["rejected"]) / job["seconds"])


def reranked_s(client: httpx.Client, query: str, texts: list[str]) -> float:
    """Texts scored a second."""
    began = time.monotonic()
    answer = client.post("/rerank", json={"query": query, "texts": texts})
    if answer.status_code != 200:
        raise Fatal(f"POST /rerank answered {answer.status_code}: {answer.text[:300]}")
    return len(texts) / (time.monotonic() - began)


def compare_passages(client: httpx.Client, count: int, turns: int) -> dict[str, Any]:
    """Queries and scores of new passages in each turn, the best of each."""
    passages = Passages()
    queries_s(client, passages.take(2), seed=0)  # warm-up
    rates = []
    for seed in range(1, turns + 1):
        texts = passages.take(count)
        turn = (queries_s(client, passages.take(count), seed), *(reranked_s(client, query, texts) for query in QUERIES))
        print("turn {}: passages {:.2f} queries/s, rerank {:.2f} texts/s, again {:.2f}".format(seed, *turn), flush=True)
        rates.append(turn)
    best = [round(max(side), 2) for side in zip(*rates, strict=True)]
    return dict(zip(("passage_queries_s", "rerank_texts_s", "rerank_again_texts_s"), best, strict=True))


def plain_vllm(settings: Settings, instruction: str, dtype: str, count: int) -> dict[str, Any]:
    """vLLM's own rates on such prompts, in a process of its own."""
    texts = Passages().take(count)
    asked = {
        "prompts": [instruction.replace("<X2>", text) for text in texts],
        "scored": [f'{query_prompt.OPENING}{text}{query_prompt.BETWEEN}{QUERIES[0]}"' for text in texts],
    }
    model = teacher.locate(settings.teacher, settings.cache_dir)
    rates = printed_json(["-m", "scripts.bench_plain_vllm", model, dtype], input=json.dumps(asked))
    return {
        "plain_vllm_queries_s": round(rates["prompts_s"], 2),
        "prompt_logprobs_texts_s": round(rates["scored_s"], 2),
    }


def original(settings: Settings, labels: dict[str, Any], dtype: str, inputs: int) -> dict[str, Any]:
    """The original's batching, in a process of its own."""
    samples = [
        [labels[name]["instruction"].replace("<X1>", sentence) for name in (label, *labels[label]["counter_labels"])]
        for sentence in sentences()[:inputs]
        for label in labels
    ]
    model = teacher.locate(settings.teacher, settings.cache_dir)
    rates = printed_json(["-m", "scripts.bench_original", model, dtype], input=json.dumps(samples))
    return {"reference_pairs_s": round(rates["pairs_s"], 3), "reference_tokens_s": round(rates["tokens_s"], 1)}


@contextlib.contextmanager
def generation(settings: Settings, engine: str) -> Iterator[tuple[Stack, httpx.Client]]:
    """The generation service with an engine, ready, and a client of it."""
    engine_setting = {"PAIRWRIGHT_GENERATION_ENGINE": engine}
    with (
        running(settings, "generation", lambda stack: not stack.not_ready("generation"), **engine_setting) as stack,
        stack.client("generation", timeout_s=660) as client,
    ):
        yield stack, client


def main() -> dict[str, Any]:
    """Measure all sides."""
    parser = argparse.ArgumentParser(prog="make bench-generation")
    parser.add_argument("--only", choices=("sentences", "passages"), help="one part; without it, both")
    parser.add_argument("--inputs", type=int, default=192, help="first sentences of a turn")
    parser.add_argument("--reference-inputs", type=int, default=8, help="of the two slow sides")
    parser.add_argument("--passages", type=int, default=64, help="passages of a turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    prepare_teacher()
    with tempfile.TemporaryDirectory() as home:
        settings = load(Settings).model_copy(update={"home": Path(home), "redis_url": None, "dataset": "bench"})
        began = time.monotonic()
        with generation(settings, "vllm") as (stack, client):
            result: dict[str, Any] = {"start_s": round(time.monotonic() - began, 1)}
            with peak_memory(stack.pids) as measured:
                if options.only != "passages":
                    result |= compare(client, options.inputs, options.turns)
                if options.only != "sentences":
                    result |= compare_passages(client, options.passages, options.turns)
            result["peak_mib"] = max(measured)
            # What the service takes on a CPU by itself.
            default = "bfloat16" if "bf16" in Path("/proc/cpuinfo").read_text() else "float32"
            dtype = result["dtype"] = stack.environment.get("PAIRWRIGHT_GENERATION_DTYPE") or default
            labels = {task["task"]: task["labels"] for task in client.get("/tasks").json()}
        if options.only != "sentences":
            plain = plain_vllm(settings, labels["retrieval"]["question"]["instruction"], dtype, options.passages)
            result |= plain | {"passage_ratio": round(result["passage_queries_s"] / plain["plain_vllm_queries_s"], 3)}
        if options.only != "passages":
            result |= original(settings, labels["sts"], dtype, options.reference_inputs)
            with generation(settings, "transformers") as (_, client):
                result["transformers_pairs_s"] = round(Side(client, options.reference_inputs).turn(seed=1), 2)
            result["speedup"] = round(result["same_work_pairs_s"] / result["reference_pairs_s"], 1)
    result |= {"teacher": settings.teacher, "device": _device(), "load": load_average()}
    for name in GOALS.keys() & result.keys():
        met = "met" if result[name] >= GOALS[name] else "not met"
        print(f"{name}: {result[name]} (goal {GOALS[name]}: {met})", flush=True)
    return result


def _device() -> str:
    """`cpu`, or the GPU's name."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return "cpu"


if __name__ == "__main__":
    run(main)
