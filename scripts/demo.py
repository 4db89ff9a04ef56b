"""`make demo`: the whole loop on the shipped documents and real parts, in a few minutes.

It is `make adapt` with pairs of the documents' sentences in place of queries. The last line on stdout is one JSON
object; the exit status is 0 only if the new version answered and is the one that was trained.
"""

import argparse
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.adaptation import Adaptation, Outcome, Request, adapt
from scripts.judgements import Judgements, read_judgements
from scripts.stack import HTTP_SERVICES, run_command
from shared.errors import Fatal
from shared.process import configure_logging
from shared.settings import Settings, load

CORPUS, QUERIES = (Path(__file__).with_name(f"demo_{name}.jsonl") for name in ("corpus", "queries"))
SENTENCES, FEWEST_SENTENCES = 80, 20
"""Of the documents: first sentences of pairs, drawn by a seed; with fewer than the least there is no round."""


@dataclass
class Demo(Adaptation):
    """One run on a stack that is up."""

    sentences: int = SENTENCES

    writes = "generate", "Writing pairs of the documents' sentences"

    def _write(self, passages: int) -> tuple[dict[str, Any], list[Path]]:  # noqa: ARG002
        """Have pairs written. Returns the job, and BEIR folders of what people judged."""
        handbook = "\n\n".join(passage["text"] for passage in self._passages()).encode()
        answer = self.live.generation.post("/sentences", params={"name": "handbook.md"}, content=handbook)
        found = answer.raise_for_status().json()["sentences"]
        inputs = random.Random(0).sample(found, min(self.sentences, len(found)))
        return self._job({"task": "sts", "inputs": inputs}, "pairs"), self._sets([])

    def _tell(self, outcome: Outcome) -> None:
        super()._tell(outcome)
        if outcome.manifest.rejection is not None:
            raise Fatal(f"the gate did not publish {outcome.manifest.id}: {outcome.manifest.rejection}")
        pages = " and ".join(f"{self.live.stack.url(service)}/docs" for service in HTTP_SERVICES)
        self.console.print(f"It answered at {pages}.", markup=False, soft_wrap=True)

    def _result(self, outcome: Outcome) -> dict[str, Any]:
        result, scores = super()._result(outcome), outcome.manifest.scores
        result |= {"pairs": result.pop("queries"), "rejected": outcome.job["rejected"]}
        result |= {f"spearman_{when}": scores.get(f"dev_{when}") for when in ("before", "after")}
        return result | {f"sts_{when}": _spearman(outcome.measured, when) for when in ("before", "after")}


def _spearman(measured: Mapping[str, Any], when: str) -> dict[str, float] | None:
    """Of the STS files, by name, with their average."""
    values = {name: one[when]["spearman"]["value"] for name, one in measured.items() if "spearman" in one[when]}
    return values | {"average": round(sum(values.values()) / len(values), 2)} if values else None


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
    parser = argparse.ArgumentParser(prog="make demo", description="From documents to a student that searches them.")
    parser.add_argument("--sts", type=Path, metavar="DIR", help="also score on the *.tsv.gz files of this folder")
    parser.add_argument(
        "--inputs", type=int, default=SENTENCES, metavar="N", help=f"use N sentences (at least {FEWEST_SENTENCES})"
    )
    arguments = parser.parse_args()
    if arguments.inputs < FEWEST_SENTENCES:
        raise Fatal(f"--inputs: fewer than {FEWEST_SENTENCES} sentences don't make a round")
    if arguments.sts is not None and not any(arguments.sts.glob("*.tsv.gz")):
        raise Fatal(f"STS: {arguments.sts} holds no *.tsv.gz file")
    configure_logging(load(Settings).log_level)
    judged = read_judgements(QUERIES)
    options = ["--sts", str(arguments.sts.resolve())] if arguments.sts else []
    request = Request(CORPUS, demo_settings(), Judgements(options, judged.queries))
    return adapt(request, Console(highlight=False), Demo, sentences=arguments.inputs)


if __name__ == "__main__":
    run_command("demo", main)
