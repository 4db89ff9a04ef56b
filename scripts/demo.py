"""`make demo`: the whole loop on real parts, from sentences to a better student, in a few minutes.

The last line on stdout is one JSON object; the exit status is 0 only if the new version answered.
"""

import argparse
import heapq
import itertools
import operator
import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.live import LiveStack, trainer_line
from scripts.stack import HTTP_SERVICES, Stack, prepare_teacher, printed_json, run_command, sentences
from shared.errors import Fatal
from shared.manifest import Manifest
from shared.model_store import ModelStore
from shared.process import configure_logging
from shared.settings import Settings, load

QUERIES = ("My room is freezing.", "Which bus goes to the centre?", "May I bring a puppy?")


class Demo:
    """One run's clients."""

    def __init__(self, live: LiveStack, settings: Settings, sentences: list[str]) -> None:
        self.live, self.console, self.sentences = live, live.console, sentences
        self.store = ModelStore(settings.models_dir)

    def generate(self) -> dict[str, Any]:
        """Ask for pairs over HTTP and follow the job's events to its end. Returns the finished job."""
        answer = self.live.generation.post("/generate", json={"task": "sts", "inputs": self.sentences})
        if answer.status_code != 202:
            raise Fatal(f"POST /generate answered {answer.status_code}: {answer.text[:300]}")
        job = self.live.follow_job(answer.headers["location"], answer.json()["requested"], "pairs")
        if job["state"] not in ("complete", "exhausted") or not job["accepted"]:
            raise Fatal(f"the job ended {job['state']} with {job['accepted']} pairs: {job['error']}")
        return job

    def wait_for_version(self) -> Manifest:
        """The first trained version that the trainer publishes."""

        def trained_version() -> Manifest | None:
            self.live.report(status, trainer_line(self.live.trainer_status()))
            if refused := self.store.rejected():
                raise Fatal(f"the gate did not publish {refused[-1].id}: {refused[-1].rejection}")
            current = self.store.current()
            manifest = self.store.manifest(current) if current else None
            return manifest if manifest is not None and manifest.round > 0 else None

        with self.console.status("training") as status:
            return self.live.poll(trained_version, 900, "no version was published")

    def print_nearest(self) -> None:
        """For a few queries, the nearest two of the demo's sentences, by vectors from `/embed`."""
        answer = self.live.embedding.post("/embed", json={"inputs": [*QUERIES, *self.sentences]})
        vectors = answer.raise_for_status().json()
        table = Table("query", "nearest, by /embed", "cosine", title="Nearest sentences", title_justify="left")
        for query, vector in zip(QUERIES, vectors, strict=False):
            cosines = (sum(map(operator.mul, vector, other)) for other in vectors[len(QUERIES) :])
            for rank, (cosine, sentence) in enumerate(heapq.nlargest(2, zip(cosines, self.sentences, strict=True))):
                table.add_row(query if rank == 0 else "", sentence, f"{cosine:.2f}", end_section=rank == 1)
        self.console.print(table)


def scores_table(manifest: Manifest, before: dict[str, float], after: dict[str, float]) -> Table:
    """Spearman x 100 before and after training."""
    table = Table("measure", title="Spearman x 100", title_justify="left")
    for column in ("before", "after", "gain"):
        table.add_column(column, justify="right")
    rows = [("generated dev pairs", manifest.scores.get("dev_before"), manifest.scores.get("dev_after"))]
    own, base = (manifest.estimates.get(student, {}) for student in ("candidate", "base"))
    rows += [(f"label-free estimate: {kind}", base[kind].value, one.value) for kind, one in own.items() if kind in base]
    for name, old, new in [*rows, *((name, old, after.get(name)) for name, old in before.items())]:
        if old is None or new is None:
            table.add_row(name, "-", "-", "-")
        else:
            table.add_row(name, f"{old:.2f}", f"{new:.2f}", f"{new - old:+.2f}")
    return table


def run(sentences: list[str], sts: Path | None, console: Console) -> dict[str, Any]:
    """The demo itself. Returns its result; raises `Fatal`."""
    settings = demo_settings()
    marks = [time.monotonic()]
    prepare_teacher()
    # One round on everything: it starts when generation has ended, on many cores too.
    rounds = {"PAIRWRIGHT_TRAINER_WAIT_FOR_GENERATION": "always", "PAIRWRIGHT_TRAINER_ROUND_SECONDS": "3"}
    with Stack(settings, {"PAIRWRIGHT_DATASET": settings.dataset, **rounds}) as stack:
        live = LiveStack(stack, console)
        demo = Demo(live, settings, sentences)
        live.wait_until_ready()
        marks.append(time.monotonic())
        console.print(f"Everything is up after {marks[1] - marks[0]:.0f} s. Asking for pairs: POST /generate")
        job = demo.generate()
        marks.append(time.monotonic())
        manifest = demo.wait_for_version()
        marks.append(time.monotonic())
        live.wait_for_swap(manifest.id)
        marks.append(time.monotonic())
        console.print(f"Version {manifest.id}, trained on {manifest.pairs} pairs, answers /embed.")
        console.print(f"Why the gate published it: {manifest.gate.get('reason')}.", highlight=False)
        base = next(version.id for version in demo.store.versions() if version.round == 0)
        evaluate = ["-m", "services.trainer", "evaluate", "--sts", str(sts and sts.resolve()), "--json"]
        before, after = (
            printed_json([*evaluate, version], environment=stack.environment) if sts else None
            for version in (base, manifest.id)
        )
        console.print(scores_table(manifest, before or {}, after or {}))
        demo.print_nearest()
        pages = " and ".join(f"{stack.url(service)}/docs" for service in HTTP_SERVICES)
        command = f"PAIRWRIGHT_HOME={settings.home} PAIRWRIGHT_DATASET={settings.dataset} make up"
        text = f"It answered at {pages}. To go on serving it:\n  {command}\n"
        text += f"Then look at it in a browser: {stack.url('generation')}/console"
        console.print(text, markup=False, soft_wrap=True)
    steps = dict(zip(("setup", "generate", "train", "swap"), itertools.pairwise(marks), strict=True))
    result = {"pairs": job["accepted"], "rejected": job["rejected"], "version": manifest.id}
    result |= {f"spearman_{when}": manifest.scores.get(f"dev_{when}") for when in ("before", "after")}
    seconds = {step: round(end - start, 1) for step, (start, end) in steps.items()}
    return result | {"sts_before": before, "sts_after": after, "seconds": seconds}


def demo_settings() -> Settings:
    """A home and a dataset of the demo's own, empty at its start: it never mixes with what people collect."""
    settings = load(Settings)
    home, dataset = settings.home / "demo", "demo"
    if settings.redis_url is None:
        shutil.rmtree(home, ignore_errors=True)
    else:
        dataset = time.strftime("demo-%Y%m%d-%H%M%S")
    return settings.model_copy(update={"home": home, "dataset": dataset})


def main() -> dict[str, Any]:
    """Parse the arguments and run. Raises `Fatal`."""
    parser = argparse.ArgumentParser(prog="make demo", description="From sentences to a better student.")
    parser.add_argument("--sts", type=Path, metavar="DIR", help="also score on the *.tsv.gz files of this folder")
    parser.add_argument("--inputs", type=int, metavar="N", help="use only the first N sentences (at least 20)")
    arguments = parser.parse_args()
    if arguments.inputs is not None and arguments.inputs < 20:
        raise Fatal("--inputs: fewer than 20 sentences don't make a round")
    if arguments.sts is not None and not any(arguments.sts.glob("*.tsv.gz")):
        raise Fatal(f"STS: {arguments.sts} holds no *.tsv.gz file")
    configure_logging(load(Settings).log_level)
    return run(sentences()[: arguments.inputs], arguments.sts, Console(highlight=False))


if __name__ == "__main__":
    run_command("demo", main)
