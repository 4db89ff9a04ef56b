"""The command line."""

import argparse
from pathlib import Path


def parse() -> argparse.Namespace:
    """What the user asks for; `command` is None for the worker."""
    parser = argparse.ArgumentParser(
        prog="python -m services.trainer",
        description="Pairs in, student versions out. Without a command: collect and train until told to stop.",
    )
    commands = parser.add_subparsers(dest="command", metavar="[command]")
    train = commands.add_parser("train", help="collect and train; with --once, one round now and then end")
    train.add_argument("--once", action="store_true", help="run one round on all pairs, whatever is new")
    one = commands.add_parser("round", help="run one planned round (what the trainer does itself)")
    one.add_argument("id", type=int)
    one.add_argument("--epoch", type=int, default=0)
    _evaluate(commands.add_parser("evaluate", help="Spearman x 100 on human-scored sentence pairs"))
    _dataset(commands.add_parser("dataset", help="look at the collected pairs, write them to a file, take some in"))
    _versions(commands.add_parser("versions", help="list, show, activate and delete versions"))
    return parser.parse_args()


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="current, previous, a version's id, default (untrained), a folder or a hub id")
    parser.add_argument("--sts", type=Path, metavar="DIR", help="a folder of STS files (*.tsv.gz)")
    parser.add_argument(
        "--data", action="append", default=[], metavar="SET",
        help="a file (.parquet, .jsonl, .csv, .tsv) or hub data set of sentence pairs with scores, as"
        " sentence-transformers' evaluators take; NAME:SPLIT names a split",
    )  # fmt: skip
    parser.add_argument("--mteb", action="append", default=[], metavar="TASK", help="a task of MTEB, by its name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--details", action="store_true", help="in the JSON too: intervals, subsets, alignment, uniformity"
    )


def _dataset(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    stats = actions.add_parser("stats", help="how many pairs, by score and origin, and what became of the rounds")
    stats.add_argument("--json", action="store_true", help="print one JSON object")
    export = actions.add_parser("export", help="write all pairs with their provenance, and a dataset card beside them")
    export.add_argument("folder", type=Path, help="a folder, which is made")
    export.add_argument("--format", choices=("parquet", "jsonl"), default="parquet")
    take = actions.add_parser("import", help="take in pairs from a file; pairs that are there already are passed over")
    take.add_argument("file", type=Path, help=".parquet, .jsonl, .csv or .tsv; the original STS-DINO files too")
    take.add_argument("--scale", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"),
                      help="the scores' scale, if not 0 to 1")  # fmt: skip
    take.add_argument(
        "--source", help="what the provenance names as teacher, for pairs that don't say; the file's name"
    )
    take.add_argument(
        "--skip-bad", action="store_true", help="pass over rows that are no pairs instead of ending there"
    )


def _versions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="all versions, and rejected candidates")
    listing.add_argument("--json", action="store_true", help="print one JSON object a line")
    for name, about in (
        ("show", "one version's manifest, and its report's place"),
        ("activate", "make a version current; with --rejected, a candidate that the gate refused"),
        ("delete", "delete a version or a rejected candidate"),
        ("push", "push a version to the model hub"),
    ):
        action = actions.add_parser(name, help=about)
        action.add_argument("version", help="an id, current or previous")
        if name == "activate":
            action.add_argument("--rejected", action="store_true", help="overrule the gate")
        if name == "push":
            action.add_argument("repo", help="owner/name")
