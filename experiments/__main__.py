"""`python -m experiments`: write sets of pairs, run trials on them, and show what came out."""

import argparse
from pathlib import Path

from experiments import generation, pictures
from experiments.configuration import read_grid
from experiments.results import Results
from experiments.sweep import Sweep, human_sets
from experiments.table import markdown
from shared import teacher
from shared.errors import Fatal
from shared.process import exit_with
from shared.settings import Settings, load

GRIDS = Path(__file__).with_name("grids")


def main() -> None:
    """Parse and do. Raises `Fatal` for whatever a person can mend."""
    parser = argparse.ArgumentParser(prog="python -m experiments")
    parser.add_argument("--pairs", type=Path, default=Path(".pairwright/experiments/pairs"), help="the sets' folder")
    parser.add_argument(
        "--rows", type=Path, default=Path(".pairwright/experiments/rows.jsonl"), help="the trials' results"
    )
    commands = parser.add_subparsers(required=True, dest="command")
    writes = commands.add_parser("generate", help="write the sets of a generation grid that are not there yet")
    writes.add_argument("grid", type=Path, nargs="?", default=GRIDS / "generation.json")
    writes.add_argument("--sentences", type=Path, help="a file of sentences, one a line")
    writes.add_argument("--together", type=int, default=1, help="write so many sets at one time (%(default)s)")
    runs = commands.add_parser("run", help="run the trials of a grid that have no result yet")
    runs.add_argument("grid", type=Path)
    runs.add_argument("--sts", type=Path, help="human-scored sets: measured beside, used for nothing")
    runs.add_argument("--sentences", type=Path, help="further sentences to show to the teacher, one a line")
    shows = commands.add_parser("table", help="the results of a grid, as a table in Markdown")
    shows.add_argument("grid", type=Path)
    shows.add_argument("--human", action="store_true", help="show the human-scored sets' columns")
    shows.add_argument("--details", action="store_true", help="show every judging set")
    draws = commands.add_parser("picture", help="the results of a grid, as a picture of the label-free scores")
    draws.add_argument("grid", type=Path)
    draws.add_argument("file", type=Path)
    draws.add_argument("--title", default="Label-free score")
    given = parser.parse_args()
    if given.command == "generate":
        generation.generate(generation.read_grid(given.grid), given.pairs, given.sentences, given.together)
        return
    sweep = Sweep(read_grid(given.grid), given.pairs, Results(given.rows))
    if given.command == "run":
        run(sweep, given.sts, given.sentences)
    elif given.command == "picture":
        pictures.draw(sweep.collected(), given.title, given.file)
    else:
        print(markdown(sweep.collected(), given.human, given.details))


def run(sweep: Sweep, sts: Path | None, sentences: Path | None) -> None:
    """Run what is missing, with the default teacher."""
    human = human_sets(sts)
    from experiments import trial

    settings = load(Settings)
    located = Path(teacher.locate(settings.teacher, settings.cache_dir))
    further = sentences.read_text(encoding="utf-8").splitlines() if sentences else []
    bench = trial.Bench(located, sweep.sets, human, settings.cache_dir / "experiments", further)
    sweep.run(lambda one: trial.run(one, bench), lambda line: print(line, flush=True))


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("experiments", fatal)
