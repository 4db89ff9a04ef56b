"""`python -m services.trainer embed`: the teacher embeddings of a corpus, by a Ray cluster, for rounds to take."""

import json
from pathlib import Path
from typing import Annotated

import typer

from services.trainer.commands.base import configured
from services.trainer.commands.cluster import check_installed
from shared.process import claim_stdout

INPUTS_HELP = "a file or a folder of files with passages or sentences, in any form that `dataset import` takes"
OUT_HELP = "a folder that all machines share, or a URI that pyarrow knows"
COLUMN_HELP = "a column of texts; may be repeated. Left out: text with its title, passage, sentence or sentence1"
ACTORS_HELP = "teachers; left out, as many as the cluster has room for now"
CPUS_HELP = "cores of a teacher; left out, all of a machine's, or 1 beside a GPU"
SHARD_HELP = "texts of a file; a death costs at most so many a teacher"


def embed(
    inputs: Annotated[Path, typer.Option("--inputs", metavar="DIR", help=INPUTS_HELP)],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help=OUT_HELP)],
    cluster: Annotated[str, typer.Option("--cluster", metavar="ADDRESS", help="auto, or HOST:PORT of its head")],
    column: Annotated[list[str] | None, typer.Option("--column", metavar="NAME", help=COLUMN_HELP)] = None,
    shard: Annotated[int, typer.Option("--shard", min=1, help=SHARD_HELP)] = 1000,
    actors: Annotated[int | None, typer.Option("--actors", min=1, help=ACTORS_HELP)] = None,
    cpus_per_actor: Annotated[int | None, typer.Option("--cpus-per-actor", min=1, help=CPUS_HELP)] = None,
) -> None:
    """Write the teacher embeddings of a corpus, and a summary as one line of JSON. The same command goes on."""
    check_installed()
    from rich.console import Console
    from rich.progress import Progress

    from services.trainer.cluster.embedding import EmbedOptions, embed

    common, stdout = configured(), claim_stdout()
    options = EmbedOptions(cluster, inputs, out, tuple(column or ()), shard, actors, cpus_per_actor)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("embedding", total=None)
        manifest = embed(options, common, lambda done, count: bar.update(task, completed=done, total=count))
    summary = {"texts": manifest["texts"], "shards": len(manifest["shards"]), "out": out}
    print(json.dumps(summary), file=stdout, flush=True)
