"""The command line. torch and its like are imported by the commands that need them, so that the worker starts light."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from services.trainer.commands import dataset, versions
from services.trainer.commands.base import AsJson, configured, group
from services.trainer.commands.embed import embed
from services.trainer.commands.map import make_map
from services.trainer.commands.round import run_one_round
from shared.settings import Settings

Once = Annotated[bool, typer.Option("--once", help="run one round on all pairs, whatever is new")]
CLUSTER_HELP = "share a transformer's rounds among a Ray cluster: auto, or HOST:PORT of its head (docs/scaling.md)"
Cluster = Annotated[str | None, typer.Option("--cluster", metavar="ADDRESS", help=CLUSTER_HELP)]
MODEL_HELP = "current, previous, a version's id, default (untrained), a folder or a hub id"
DATA_HELP = (
    "a file (.parquet, .jsonl, .csv, .tsv) or hub data set of sentence pairs with scores, as sentence-transformers'"
    " evaluators take; NAME:SPLIT names a split"
)
BEIR_HELP = "a folder of corpus.jsonl, queries.jsonl and qrels/test.tsv: nDCG@10, recall@10, MRR@10"
LABELLED_HELP = "lines of label<tab>text, or columns label and text: V-measure, share whose nearest text agrees, MAP"
PAIRS_HELP = "sentence1, sentence2 and a label of 0 or 1, in any form that `dataset import` takes: average precision"
AGAINST_HELP = "another student, named as MODEL is: before, after and difference, with the difference's interval"
DETAILS_HELP = "in the JSON too: intervals, subsets, alignment, uniformity"


def command_line(start: Callable[[Settings, bool], None]) -> typer.Typer:
    """All commands. `start` is called without one, and for `train`; its flag says whether for one round."""
    app = group(
        "Pairs in, student versions out. Without a command: collect and train until told to stop."
        " Settings are environment variables (.env.example)."
    )

    @app.callback(invoke_without_command=True)
    def _without_command(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            start(configured(), False)

    @app.command()
    def train(once: Once = False, cluster: Cluster = None) -> None:
        """Collect and train; with --once, one round now and then end."""
        if cluster is not None:
            os.environ["PAIRWRIGHT_TRAINER_CLUSTER"] = cluster  # a round's process reads it
        start(configured(), once)

    app.command("round")(run_one_round)
    app.command("map")(make_map)
    app.command("embed")(embed)
    app.command("evaluate")(evaluate)
    app.add_typer(dataset.app, name="dataset")
    app.add_typer(versions.app, name="versions")
    return app


def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    sts: Annotated[Path | None, typer.Option(metavar="DIR", help="a folder of STS files (*.tsv.gz)")] = None,
    beir: Annotated[list[Path] | None, typer.Option(metavar="DIR", help=BEIR_HELP)] = None,
    labelled: Annotated[list[Path] | None, typer.Option(metavar="FILE", help=LABELLED_HELP)] = None,
    pairs: Annotated[list[Path] | None, typer.Option(metavar="FILE", help=PAIRS_HELP)] = None,
    data: Annotated[list[str] | None, typer.Option(metavar="SET", help=DATA_HELP)] = None,
    mteb: Annotated[list[str] | None, typer.Option(metavar="TASK", help="a task of MTEB, by its name")] = None,
    against: Annotated[str | None, typer.Option(metavar="MODEL", help=AGAINST_HELP)] = None,
    as_json: AsJson = False,
    details: Annotated[bool, typer.Option("--details", help=DETAILS_HELP)] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only read and check what to score on")] = False,
) -> None:
    """Measure a student on what people judged: pairs with scores, search, groups, pairs of the same meaning."""
    from services.trainer.commands.evaluate import Sources, print_scores, read_sets

    sources = Sources(sts, data or [], beir or [], labelled or [], pairs or [], mteb or [])
    if dry_run:
        return print(*(one.name for one in read_sets(sources)), sep="\n")
    if against is not None:
        from services.trainer.commands.compare import print_changes

        return print_changes(configured(), model, against, sources, as_json)
    print_scores(configured(), model, sources, as_json, details)
