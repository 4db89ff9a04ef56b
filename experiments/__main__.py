"""`python -m experiments`: write sets of pairs, run trials on them, and show what came out."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from experiments import generation, pair_sets, picture
from experiments.configuration import read_grid
from experiments.results import Results, by_name, run_grid
from experiments.table import markdown
from shared import teacher
from shared.process import ROOT, configure_logging, fatal_in_one_line
from shared.settings import Settings, load

FOLDER = ROOT / ".pairwright" / "experiments"
SETS = Path(__file__).with_name("grids") / "sets.json"

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Pairs = Annotated[Path, typer.Option(help="the pair sets' folder")]
Only = Annotated[list[str] | None, typer.Option(help="take the mean over this evaluation set alone; may be repeated")]


@app.command()
def generate(
    sets: Annotated[Path, typer.Argument(help="a file of pair sets")] = SETS,
    only: Annotated[list[str] | None, typer.Option(help="write this set alone; may be repeated")] = None,
    pairs: Pairs = FOLDER / "pairs",
    sentences: Annotated[Path | None, typer.Option(help="a file of sentences, one a line")] = None,
    together: Annotated[int, typer.Option(help="write so many sets at one time")] = 1,
) -> None:
    """Write the pair sets that are not there yet."""
    wanted = [one for one in generation.read_sets(sets) if not only or one.name in only]
    generation.generate(wanted, pairs, sentences, together)


@app.command()
def run(
    grid: Annotated[Path, typer.Argument(help="a file of trials")],
    pairs: Pairs = FOLDER / "pairs",
    results: Annotated[Path | None, typer.Option(help="a file of results, by default named as the grid")] = None,
    sts: Annotated[Path | None, typer.Option(help="human-scored sets: measured beside, used for no choice")] = None,
    sentences: Annotated[
        Path | None, typer.Option(help="sentences, one a line: measure the agreement with the teacher over their pairs")
    ] = None,
) -> None:
    """Run the trials of a grid that have no result yet, with the default teacher."""
    rows, human = read_grid(grid), pair_sets.human_sets(sts)
    names = sorted({name for row in rows for name in (*row.trial.train, *row.trial.eval_pairs)})
    sets = {name: pair_sets.read(pairs, name) for name in names}
    from experiments import trial  # takes seconds: torch, sentence-transformers

    settings = load(Settings)
    located = Path(teacher.locate(settings.teacher, settings.cache_dir))
    lines = sentences.read_text(encoding="utf-8").splitlines() if sentences else []
    bench = trial.Bench(located, sets, human, settings.cache_dir / "experiments", lines)
    file = results or FOLDER / f"{grid.stem}.jsonl"
    run_grid(rows, sets, Results(file), lambda one: trial.run(one, bench), lambda line: print(line, flush=True))
    print(markdown(by_name(file)))


@app.command()
def table(
    results: Path,
    only: Only = None,
    human: Annotated[bool, typer.Option("--human", help="show the human-scored sets' columns")] = False,
    details: Annotated[bool, typer.Option("--details", help="show each evaluation set, and the agreement")] = False,
) -> None:
    """Print a file of results as a table in Markdown."""
    print(markdown(by_name(results, only or []), human, details))


@app.command("picture")
def draw(results: Path, file: Path, only: Only = None, title: str = "Label-free score") -> None:
    """Draw the label-free scores of a file of results."""
    picture.draw(by_name(results, only or []), title, file)


@app.command()
def estimate(
    domains: Annotated[list[Path], typer.Argument(help="folders of domains that people have judged")],
    pairs: Annotated[Path, typer.Option(help="a folder with DOMAIN.txt and the pairs written for it, DOMAIN.jsonl")],
    transformer: Annotated[Path, typer.Option(help="the folder of a transformer student, beside the default one")],
    seed: Annotated[list[int] | None, typer.Option(help="may be repeated; by default 1")] = None,
    results: Annotated[Path, typer.Option(help="a file of results")] = FOLDER / "estimates.json",
) -> None:
    """Compare the label-free estimate with what people say of good and harmful candidates."""
    from experiments import estimates  # takes seconds: torch, sentence-transformers
    from services.trainer.students import locate

    settings = load(Settings)
    located = Path(teacher.locate(settings.teacher, settings.cache_dir))
    students = {
        "static": locate.locate("default", settings.teacher, settings.cache_dir),
        "transformer": str(transformer),
    }
    cache = settings.cache_dir / "experiments"
    cache.mkdir(parents=True, exist_ok=True)
    bench = estimates.Bench(located, students, pairs, cache)
    names = [folder.name for folder in domains]
    rows = [
        row
        for folder, other in zip(domains, [*names[1:], names[0]], strict=True)
        for one in seed or [1]
        for row in estimates.run(folder, other, one, bench)
    ]
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(rows, indent=0) + "\n")
    for name in names:
        some = estimates.unique([row for row in rows if row["domain"] == name])
        print(f"## {name}\n\n{estimates.markdown(some)}\n\n{json.dumps(estimates.agreement(some))}\n")


@app.command("compact")
def train_compact(
    groups: Annotated[int, typer.Option(help="learn from the pairs of so many sentences, beside the corpus")] = 6_500,
    epochs: float = 5,
    rate: float = 1e-3,
    placebo: Annotated[bool, typer.Option("--placebo", help="let sentences have other ones' embeddings")] = False,
    file: Annotated[Path, typer.Option(help="the layers, which the product reads from its own folder")] = FOLDER
    / "compact.safetensors",
) -> None:
    """Train the layers of the compact student by the default teacher."""
    from experiments import compact  # takes seconds: torch, sentence-transformers

    settings = load(Settings)
    configure_logging(settings.log_level, settings.log_format, "experiments")
    logging.getLogger("experiments").setLevel(settings.log_level)
    cache = settings.cache_dir / "experiments"
    cache.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    config = compact.TrainingConfig(groups=groups, epochs=epochs, learning_rate=rate, placebo=placebo)
    print(json.dumps(compact.train(teacher.default_teacher(settings.cache_dir), cache, file, config)))


@app.command("reproduce")
def reproduce_(
    sts: Annotated[Path, typer.Option(help="human-scored sets: measured at the end, used for no choice")],
    minilm: Annotated[Path | None, typer.Option(help="a folder with all-MiniLM-L6-v2, as a third base")] = None,
    inputs: Annotated[int, typer.Option(help="first sentences of each pair set")] = 200,
    seconds: Annotated[float, typer.Option(help="how long each method trains")] = 60.0,
    rates: Annotated[float, typer.Option(help="learning rates, as a multiple of the papers'")] = 10.0,
    seed: Annotated[list[int] | None, typer.Option(help="may be repeated; by default 1, 2 and 3")] = None,
    results: Annotated[Path, typer.Option(help="a file of results")] = FOLDER / "reproduce.jsonl",
) -> None:
    """Compare DINO with unsupervised baselines: the paper's claim, on this project's models.

    The given sentences are the first ones of `stsb.train`, as in the paper, if DIR has it, else the demo's.
    """
    from experiments import reproduce  # takes seconds: torch, sentence-transformers
    from services.trainer.students import locate

    settings = load(Settings)
    cache = settings.cache_dir
    folder, layers = FOLDER / f"reproduce-{inputs}", cache / "experiments" / "teacher-3-lower-layers"
    folder.mkdir(parents=True, exist_ok=True)
    human = pair_sets.human_sets(sts)
    generation.generate(
        [generation.PairSet(**plan) for plan in reproduce.plans(inputs)], folder, reproduce.write_given(sts, folder)
    )
    teacher.make_once(layers, ".making-layers-", partial(reproduce.write_lower_layers, teacher.default_teacher(cache)))
    bases = {
        "the compact student": locate.locate("compact", "default", cache),
        "the teacher's 3 lower layers": str(layers),
    }
    if minilm is not None:
        bases["all-MiniLM-L6-v2, trained on pairs by people"] = str(minilm)
    pairs = {name: pair_sets.read(folder, name) for name in reproduce.SETS}
    kept = Results(results)
    seeds, report = seed or [1, 2, 3], partial(print, flush=True)
    rows = reproduce.run(bases, pairs, human, seeds, seconds, rates, kept, report)
    print(reproduce.markdown(rows))


@app.command()
def pack(
    file: Path,
    names: Annotated[list[str], typer.Argument(help="the sets to pack")],
    pairs: Pairs = FOLDER / "pairs",
    apart_from: Annotated[list[str] | None, typer.Option(help="leave out the sentences of this set")] = None,
) -> None:
    """Pack pair sets into one compressed file, as `results/2026-11-26-pairs.jsonl.xz` was."""
    print(pair_sets.pack(pairs, names, apart_from or [], file), "pairs")


if __name__ == "__main__":
    with fatal_in_one_line("experiments"):
        app()
