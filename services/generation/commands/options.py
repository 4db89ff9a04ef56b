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

from services.generation.pairs.plan import InvalidPlan, Plan, Preset, ResolvedPlan
from services.generation.pairs.prompts import Form
from services.generation.pairs.tasks import InvalidTask, first_problem, load_all_tasks, load_task
from shared.errors import Fatal

PROGRAM = "python -m services.generation"
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Options:
    """What was asked for; `fields` are the plan's."""

    out: Path
    push_to_hub: str | None
    rejected: Path | None
    plan: Path | None
    inputs: Path | None
    fields: dict[str, Any]


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
    for place, argument in enumerate(arguments):
        if argument.startswith("--"):
            labels = argument == "--labels"
        elif labels and arguments[place - 1] != "--labels":
            yield "--labels"
        yield argument


@app.callback()
def _program() -> None:
    """Without a command: serve HTTP."""


def _option(metavar: str | None, text: str) -> Any:
    return typer.Option(metavar=metavar, help=text)


@app.command()
def generate(
    out: Annotated[Path, _option("FILE", "the pairs, as JSON Lines")],
    task: Annotated[str | None, _option("NAME", "a task, or the file of a task spec (*.json); default sts")] = None,
    inputs: Annotated[Path | None, _option("FILE", "first sentences: one a line, or *.jsonl with sentence1")] = None,
    num_inputs: Annotated[int | None, _option("N", "the teacher writes so many first sentences")] = None,
    pairs: Annotated[int | None, _option("N", "accepted pairs wanted for each label in all")] = None,
    preset: Annotated[
        Preset | None, _option(None, "where the defaults come from: default is ours, dino the original's")
    ] = None,
    labels: Annotated[list[str] | None, _option("LABEL...", "some of the task's labels; default all")] = None,
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
) -> Options:
    """Write labelled pairs into a file, with a journal, a dataset card and a progress bar beside it.

    Interrupted, the same command goes on. The engine is set as for the service (PAIRWRIGHT_...).
    """
    fields = {name: value for name, value in locals().items() if name in Plan.model_fields and value is not None}
    fields.pop("inputs", None)
    return Options(out, push_to_hub, rejected, plan, inputs, fields)


def make_plan(options: Options, task_dir: Path | None) -> ResolvedPlan:
    """The plan that the options describe. Raises `Fatal`."""
    fields = _json_file(options.plan) if options.plan is not None else {}
    if options.inputs is not None:
        fields["inputs"] = read_inputs(options.inputs)
    fields |= options.fields
    try:
        tasks = load_all_tasks(task_dir)
        for name in ("task", "sentence1_task"):
            if str(fields.get(name, "")).endswith(".json"):
                fields[name] = load_task(Path(fields[name]))
        return Plan.model_validate(fields).resolve(tasks)
    except InvalidTask as error:
        raise Fatal(f"--task: {error}") from None
    except InvalidPlan as error:
        field, message = error.field, error.message
    except ValidationError as error:
        field, message = first_problem(error)
    raise Fatal(f"--{field.replace('_', '-')}: {message}" if field else message)


def read_inputs(file: Path) -> list[str]:
    """First sentences: one a line, or JSON Lines with `sentence1`, `text_a` (the original's) or `text`. Repeated ones
    are taken once. Raises `Fatal` that names the line."""
    sentences = []
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            if file.suffix in (".jsonl", ".ndjson"):
                row = json.loads(line)
                names = [name for name in ("sentence1", "text_a", "text") if isinstance(row, dict) and name in row]
                if not names:
                    raise Fatal(f"--inputs: {file}, line {number}: has no sentence1, text_a or text")
                line = str(row[names[0]])
            sentences.append(line.strip())
    except json.JSONDecodeError as error:
        raise Fatal(f"--inputs: {file}, line {number}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(f"--inputs: {file}: {error}") from None
    if not sentences:
        raise Fatal(f"--inputs: {file} holds no sentence")
    return list(dict.fromkeys(sentences))


def _json_file(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Fatal(f"--plan: {file}: {error}") from None
    if not isinstance(value, dict):
        raise Fatal(f"--plan: {file}: must hold the body of POST /generate, a JSON object")
    return value
