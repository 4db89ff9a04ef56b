"""`make demo`: the whole loop on real parts, from sentences to a better student, in a few minutes.

The teacher writes pairs for the sentences beside this file, the trainer makes a new version of them, the embedding
service takes it up. The last line on stdout is one JSON object; the exit status is 0 only if the new version answered.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from scripts.stack import Stack
from scripts.up import prepare_teacher
from shared.errors import Fatal
from shared.heartbeat import Heartbeats
from shared.manifest import Manifest
from shared.model_store import ModelStore
from shared.process import ROOT, configure_logging, exit_with
from shared.redis import command_client
from shared.settings import Settings, load

SENTENCES = Path(__file__).with_name("demo_sentences.txt")
START_WITHIN_S, TRAIN_WITHIN_S, SWAP_WITHIN_S = 300.0, 900.0, 120.0
PRINT_A_PAIR_EVERY_S = 2.0
Result = TypeVar("Result")
QUERIES = ("My telephone is too hot.", "Where is the train station?", "The lawyer has read the documents.")


class Demo:
    """One run's clients: of its stack, its services and its versions."""

    def __init__(self, stack: Stack, settings: Settings, sentences: list[str], console: Console) -> None:
        self.stack, self.sentences, self.console = stack, sentences, console
        self.store, self.dataset = ModelStore(settings.models_dir), settings.dataset
        keys = {"Authorization": f"Bearer {settings.keys[0]}"} if settings.keys else {}
        self.generation = httpx.Client(base_url=stack.url("generation"), headers=keys, timeout=30)
        self.embedding = httpx.Client(base_url=stack.url("embedding"), headers=keys, timeout=30)

    def wait_until_ready(self) -> None:
        """Both services ready, the untrained base student published and served."""

        def is_ready() -> bool:
            waiting = {service: self.stack.not_ready(service) for service in ("generation", "embedding")}
            line = "; ".join(f"{service}: {reason}" for service, reason in waiting.items() if reason)
            status.update(textwrap.shorten(f"starting: {line}", self.console.width - 4, placeholder=" ..."))
            return not line

        with self.console.status("starting") as status:
            self._poll(is_ready, START_WITHIN_S, "the services did not become ready")

    def generate(self) -> dict[str, Any]:
        """Ask for pairs over HTTP and follow the job's events to its end. Returns the finished job."""
        answer = self.generation.post("/generate", json={"task": "sts", "inputs": self.sentences})
        if answer.status_code != 202:
            raise Fatal(f"POST /generate answered {answer.status_code}: {answer.text[:300]}")
        rate = TextColumn("{task.fields[rate]}")
        columns = (TextColumn("pairs"), BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            progress.add_task("pairs", total=answer.json()["requested"], rate="")
            url = f"{answer.headers['location']}/events"
            job = self._poll(lambda: self._follow(url, progress), TRAIN_WITHIN_S, "the job's events can't be read")
        if job["state"] not in ("complete", "exhausted") or not job["accepted"]:
            raise Fatal(f"the job ended {job['state']} with {job['accepted']} pairs: {job['error']}")
        return job

    def wait_for_version(self) -> Manifest:
        """The first trained version that the trainer publishes."""

        def trained_version() -> Manifest | None:
            trainer = asyncio.run(self._trainer_status())
            step = f": step {trainer['step']} of {trainer['steps']}" if trainer.get("steps") else ""
            status.update(f"trainer: {trainer.get('state', 'no word yet')}{step}")
            current = self.store.current()
            manifest = self.store.manifest(current) if current else None
            return manifest if manifest is not None and manifest.round > 0 else None

        with self.console.status("training") as status:
            return self._poll(trained_version, TRAIN_WITHIN_S, "no version was published")

    def wait_for_swap(self, version: str) -> None:
        """`/embed` answers with the version."""

        def is_served() -> bool:
            answer = self.embedding.post("/embed", json={"inputs": QUERIES[0]})
            return answer.status_code == 200 and answer.headers["x-pairwright-version"] == version

        self._poll(is_served, SWAP_WITHIN_S, f"/embed did not take up {version}")

    def print_nearest(self) -> None:
        """For a few queries, the nearest of the demo's sentences, by vectors from `/embed`."""
        answer = self.embedding.post("/embed", json={"inputs": [*QUERIES, *self.sentences]})
        answer.raise_for_status()
        vectors = answer.json()
        table = Table("query", "nearest, by /embed", "cosine", title="Nearest sentences", title_justify="left")
        for query, vector in zip(QUERIES, vectors, strict=False):
            scored = [
                (sum(a * b for a, b in zip(vector, other, strict=True)), sentence)
                for sentence, other in zip(self.sentences, vectors[len(QUERIES) :], strict=True)
            ]
            for rank, (score, sentence) in enumerate(sorted(scored, reverse=True)[:2]):
                table.add_row(query if rank == 0 else "", sentence, f"{score:.2f}", end_section=rank == 1)
        self.console.print(table)

    def _follow(self, url: str, progress: Progress) -> dict[str, Any] | None:
        """Follow the job's server-sent events. The job at its end; None when the connection is lost before."""
        printed, event = 0.0, ""
        try:
            with self.generation.stream("GET", url, timeout=60) as answer:
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        event = value
                    if name != "data":
                        continue
                    job: dict[str, Any] = json.loads(value)
                    rate = f"{job['pairs_per_second'] or 0:.1f}/s, {job['rejected']} samples rejected"
                    progress.update(progress.task_ids[0], completed=job["accepted"], rate=rate)
                    if job["latest"] and (event == "done" or time.monotonic() - printed > PRINT_A_PAIR_EVERY_S):
                        printed, pair = time.monotonic(), job["latest"]
                        text = f"{pair['label']:>5}  {pair['sentence1']} | {pair['sentence2']}"
                        progress.print(text, markup=False, no_wrap=True, overflow="ellipsis", crop=True)
                    if event == "done":
                        return job
        except httpx.HTTPError:
            pass
        return None

    def _poll(self, call: Callable[[], Result | None], within_s: float, failure: str) -> Result:
        """The first true result of `call`. Raises `Fatal` after `within_s`, or at once when the stack has given up."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self.stack.check()
            if result := call():
                return result
            time.sleep(0.2)
        raise Fatal(f"{failure} within {within_s:.0f} s; see the logs in {self.stack.logs}")

    async def _trainer_status(self) -> dict[str, Any]:
        """The trainer's heartbeat; {} while it is away."""
        async with command_client(self.stack.redis_url) as redis:
            with contextlib.suppress(RedisError, OSError):
                return await Heartbeats(redis, self.dataset).read("trainer")
        return {}


def evaluate(version: str, sts: Path, stack: Stack) -> dict[str, float]:
    """Spearman x 100 on every STS file, by the command that users have."""
    command = [sys.executable, "-m", "services.trainer", "evaluate", version, "--sts", str(sts.resolve()), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=stack.environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Fatal(f"the evaluation of {version} failed (see above)")
    scores: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return scores


def scores_table(manifest: Manifest, before: dict[str, float] | None, after: dict[str, float] | None) -> Table:
    """Spearman x 100 before and after training."""
    table = Table(title="Spearman x 100", title_justify="left")
    for column in ("set", "before", "after", "gain"):
        table.add_column(column, justify="left" if column == "set" else "right")
    rows = [("synthetic dev", manifest.scores.get("dev_before"), manifest.scores.get("dev_after"))]
    rows += [(name, value, (after or {}).get(name)) for name, value in (before or {}).items()]
    for name, old, new in rows:
        if old is None or new is None:
            table.add_row(name, "-", "-", "-")
        else:
            table.add_row(name, f"{old:.2f}", f"{new:.2f}", f"{new - old:+.2f}")
    return table


def run(sentences: list[str], sts: Path | None, console: Console) -> dict[str, Any]:
    """The demo itself. Returns its result; raises `Fatal`."""
    settings = demo_settings()
    began = time.monotonic()
    prepare_teacher()
    # One round on everything: it starts when generation has ended, on many cores too.
    environment = {
        "PAIRWRIGHT_DATASET": settings.dataset,
        "PAIRWRIGHT_TRAINER_WAIT_FOR_GENERATION": "always",
        "PAIRWRIGHT_TRAINER_ROUND_SECONDS": "3",
    }
    with Stack(settings, environment) as stack:
        demo = Demo(stack, settings, sentences, console)
        demo.wait_until_ready()
        marks = [began, time.monotonic()]
        console.print(f"Everything is up after {marks[1] - began:.0f} s. Asking for pairs: POST /generate")
        job = demo.generate()
        marks.append(time.monotonic())
        manifest = demo.wait_for_version()
        marks.append(time.monotonic())
        demo.wait_for_swap(manifest.id)
        marks.append(time.monotonic())
        console.print(f"Version {manifest.id}, trained on {manifest.pairs} pairs, answers /embed.")
        base = next(version.id for version in demo.store.versions() if version.round == 0)
        before = evaluate(base, sts, stack) if sts else None
        after = evaluate(manifest.id, sts, stack) if sts else None
        console.print(scores_table(manifest, before, after))
        demo.print_nearest()
        console.print(
            f"It answered at {stack.url('generation')}/docs and {stack.url('embedding')}/docs. To go on serving it:\n"
            f"  PAIRWRIGHT_HOME={settings.home} PAIRWRIGHT_DATASET={settings.dataset} make up",
            markup=False,
            soft_wrap=True,
        )
    steps = dict(zip(("setup", "generate", "train", "swap"), itertools.pairwise(marks), strict=True))
    return {
        "pairs": job["accepted"],
        "rejected": job["rejected"],
        "version": manifest.id,
        "spearman_before": manifest.scores.get("dev_before"),
        "spearman_after": manifest.scores.get("dev_after"),
        "sts_before": before,
        "sts_after": after,
        "seconds": {step: round(end - start, 1) for step, (start, end) in steps.items()},
    }


def demo_settings() -> Settings:
    """A home and a dataset of the demo's own, empty at its start: it never mixes with what people collect."""
    settings = load(Settings)
    home = settings.home / "demo"
    if settings.redis_url is None:
        shutil.rmtree(home, ignore_errors=True)
        return settings.model_copy(update={"home": home, "dataset": "demo"})
    return settings.model_copy(update={"home": home, "dataset": time.strftime("demo-%Y%m%d-%H%M%S")})


def main() -> None:
    """Parse the arguments, run, print the JSON line."""
    parser = argparse.ArgumentParser(prog="make demo", description="From sentences to a better student.")
    parser.add_argument("--sts", type=Path, metavar="DIR", help="also score on the *.tsv.gz files of this folder")
    parser.add_argument("--inputs", type=int, metavar="N", help="use only the first N sentences (at least 20)")
    arguments = parser.parse_args()
    sts, sentences = arguments.sts, SENTENCES.read_text(encoding="utf-8").splitlines()
    if arguments.inputs is not None and arguments.inputs < 20:
        raise Fatal("--inputs: fewer than 20 sentences don't make a round")
    if sts is not None and not any(sts.glob("*.tsv.gz")):
        raise Fatal(f"STS: {sts} holds no *.tsv.gz file")
    configure_logging(load(Settings).log_level)
    result = run(sentences[: arguments.inputs], sts, Console(highlight=False))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("demo", fatal)
    except KeyboardInterrupt:
        sys.exit(130)
