"""The options of `generate`, and the plan that they describe."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.main import get_command

from services.generation.pairs.inputs import given_of
from services.generation.pairs.plan import MAX_INPUTS, InvalidPlan, Plan, Preset, ResolvedPlan
from services.generation.pairs.prompts import Form
from services.generation.pairs.tasks import InvalidTask, Tasks, TaskSpec, first_problem, load_all_tasks, load_task
from shared.errors import Fatal
from shared.tables import place, read

PROGRAM = "python -m services.generation"
INPUTS_HELP = (
    "first sentences, or passages for queries: one a line, or a table by its name's end (.csv, .tsv, .json, .jsonl, "
    ".parquet); passages in columns title and text"
)
SKIP_HELP = "pass over rows of --inputs that hold no sentence instead of ending there"
CLUSTER_HELP = "write with the engines of a Ray cluster: auto, or HOST:PORT of its head (docs/scaling.md)"
ACTORS_HELP = "with --cluster: engines; left out, as many as the cluster has room for now"
CPUS_HELP = "with --cluster: cores of an engine; left out, all of a machine's, or 1 beside a GPU"
SHARD_HELP = "with --cluster: first sentences or passages of a file; a death costs at most so many an engine, twice"
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Options:
    """What was asked for; `fields` are the plan's."""

    out: Path
    push_to_hub: str | None
    rejected: Path | None
    plan: Path | None
    inputs: Path | None
    column: str | None
    skip_bad: bool
    fields: dict[str, Any]
    cluster: "ClusterFields | None" = None


@dataclass(frozen=True)
class ClusterFields:
    """What `--cluster` and the options that go with it say."""

    address: str
    out: str
    inputs: str | None
    actors: int | None
    cpus: int | None
    shard: int


def parse(arguments: Sequence[str]) -> Any:
    """The options of the command that was named.

    Ends the process after `--help` and, with the usage, for options that there aren't.
    """
    try:
        options = get_command(app).main(list(_one_by_one(arguments)), prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        sys.stderr.write(f"{PROGRAM}: error: {error.format_message()} See --help.\n")
        sys.exit(error.exit_code)
    if options is None or isinstance(options, int):  # the exit status of --help
        sys.exit(options)
    return options


def _one_by_one(arguments: Sequence[str]) -> Iterator[str]:
    """`--labels A B` as `--labels A --labels B`: typer repeats an option where it may have several values."""
    labels = False
    for index, argument in enumerate(arguments):
        if argument.startswith("--"):
            labels = argument == "--labels"
        elif labels and arguments[index - 1] != "--labels":
            yield "--labels"
        yield argument


@app.callback()
def _program() -> None:
    """Without a command: serve HTTP. Settings are environment variables (.env.example)."""


def _option(metavar: str | None, text: str) -> Any:
    return typer.Option(metavar=metavar, help=text)


@app.command()
def generate(
    out: Annotated[str, _option("FILE", "the pairs, as JSON Lines; with --cluster, a folder that all machines share")],
    task: Annotated[str | None, _option("NAME", "a task, or the file of a task spec (*.json); default sts")] = None,
    inputs: Annotated[str | None, _option("FILE", INPUTS_HELP)] = None,
    column: Annotated[str | None, _option("NAME", "the column of --inputs that has the sentences")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help=SKIP_HELP)] = False,
    num_inputs: Annotated[int | None, _option("N", "the teacher writes so many first sentences")] = None,
    queries: Annotated[
        int | None, _option("N", "queries for so many passages of the dataset, which the trainer reads out")
    ] = None,
    pairs: Annotated[int | None, _option("N", "accepted pairs wanted for each label in all")] = None,
    preset: Annotated[
        Preset | None, _option(None, "where the defaults come from: default is ours, dino the original's")
    ] = None,
    labels: Annotated[list[str] | None, _option("LABEL...", "some of the task's labels; default all")] = None,
    contrast: Annotated[
        bool | None, typer.Option("--contrast/--no-contrast", help="suppress what a neighbouring passage would bring")
    ] = None,
    pairs_per_label: Annotated[int | None, _option("N", "for each first sentence")] = None,
    attempts: Annotated[int | None, _option("N", "how often a pair is tried before it is given up")] = None,
    exemplars: Annotated[int | None, _option("N", "how many of a label's exemplars a prompt shows")] = None,
    prompt_form: Annotated[
        Form | None, _option(None, "chat uses the teacher's chat template; auto, if it has one, for second sentences")
    ] = None,
    sentence1_task: Annotated[str | None, _option("NAME", "a task without <X1>, as the original's sts-x1")] = None,
    seed: Annotated[int | None, _option("N", "the same seed, plan and teacher write the same pairs")] = None,
    plan: Annotated[Path | None, _option("FILE", "more fields, as the body of POST /generate")] = None,
    rejected: Annotated[
        Path | None, _option("FILE", "rejected sentences with reasons, 100 of each, as JSON Lines")
    ] = None,
    push_to_hub: Annotated[str | None, _option("REPO", "upload file and card to this dataset repository")] = None,
    cluster: Annotated[str | None, _option("ADDRESS", CLUSTER_HELP)] = None,
    actors: Annotated[int | None, typer.Option(min=1, metavar="N", help=ACTORS_HELP)] = None,
    cpus_per_actor: Annotated[int | None, typer.Option(min=1, metavar="N", help=CPUS_HELP)] = None,
    shard: Annotated[int, typer.Option(min=1, metavar="N", help=SHARD_HELP)] = 1000,
) -> Options:
    """Write labelled pairs into a file, with a journal, a dataset card and a progress bar beside it.

    Interrupted, the same command goes on. The engine is set as for the service (PAIRWRIGHT_...).
    """
    if cluster is None and (actors or cpus_per_actor):
        raise typer.BadParameter("--actors and --cpus-per-actor go with --cluster")
    on_cluster = ClusterFields(cluster, out, inputs, actors, cpus_per_actor, shard) if cluster is not None else None
    fields = {name: value for name, value in locals().items() if name in Plan.model_fields and value is not None}
    fields.pop("inputs", None)
    file = None if inputs is None else Path(inputs)
    return Options(Path(out), push_to_hub, rejected, plan, file, column, skip_bad, fields, on_cluster)


def make_plan(options: Options, task_dir: Path | None) -> ResolvedPlan:
    """The plan that the options describe. Raises `Fatal`."""
    fields = (_json_file(options.plan) if options.plan is not None else {}) | options.fields
    count = fields.get("num_inputs")
    if options.cluster is not None and isinstance(count, int):
        fields["num_inputs"] = min(count, MAX_INPUTS)  # a job's limit; a cluster has none
    try:
        tasks = load_all_tasks(task_dir)
        for name in ("task", "sentence1_task"):
            if str(fields.get(name, "")).endswith(".json"):
                fields[name] = load_task(Path(fields[name]))
        if options.cluster is not None and options.inputs is not None:
            fields["inputs"] = ["stands for the cluster's"]
        elif options.inputs is not None:
            are_passages = _writes_queries(fields.get("task"), tasks)
            fields["inputs"] = read_inputs(options.inputs, options.column, options.skip_bad, are_passages)
        plan = Plan.model_validate(fields).resolve(tasks)
        return plan if options.cluster is None else _cluster_plan(options, plan, count)
    except InvalidTask as error:
        raise Fatal(f"--task: {error}") from None
    except InvalidPlan as error:
        field, message = error.field, error.message
    except ValidationError as error:
        field, message = first_problem(error)
    raise Fatal(f"--{field.replace('_', '-')}: {message}" if field else message)


def _cluster_plan(options: Options, plan: ResolvedPlan, count: int | None) -> ResolvedPlan:
    """As it was asked for: inputs stay in their files, and there may be more first sentences than in a job."""
    if plan.queries is not None:
        raise InvalidPlan("queries", "a cluster reads no dataset; give the passages themselves with --inputs")
    inputs = None if options.inputs is not None else plan.inputs
    return plan.model_copy(update={"inputs": inputs, "num_inputs": count})


def _writes_queries(task: object, tasks: Tasks) -> bool:
    spec = tasks.get(task) if isinstance(task, str) else task
    return isinstance(spec, TaskSpec) and spec.writes_queries


def read_inputs(file: Path, column: str | None = None, skip_bad: bool = False, are_passages: bool = False) -> list[str]:
    """First sentences, each taken once: of the named column, else of the first of `inputs.COLUMNS` that a row has.

    Passages: of `inputs.PASSAGE_COLUMNS`, a row's title before its text. Raises `Fatal`, which names the first bad row
    unless they are to be passed over; how many those are goes to stderr.
    """
    sentences, bad, first_bad = dict[str, None](), 0, ""
    try:
        for number, row in read(file):
            try:
                sentences[given_of(row, column, are_passages)] = None
            except ValueError as error:
                bad, first_bad = bad + 1, first_bad or f"{place(file, number)}: {error}"
                if not skip_bad:
                    raise Fatal(f"{file}, {first_bad}; mend it, or pass over such rows with --skip-bad") from None
    except Fatal as fatal:
        raise Fatal(f"--inputs: {fatal}") from None
    if not sentences:
        raise Fatal(f"--inputs: {file} holds no sentence" + (f"; {first_bad}" if bad else ""))
    if bad:
        sys.stderr.write(f"--inputs: {bad} rows of {file} were passed over; the first, {first_bad}\n")
    return list(sentences)


def _json_file(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Fatal(f"--plan: {file}: {error}") from None
    if not isinstance(value, dict):
        raise Fatal(f"--plan: {file}: must hold the body of POST /generate, a JSON object")
    return value
