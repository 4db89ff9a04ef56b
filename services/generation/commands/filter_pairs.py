"""`python -m services.generation filter`: the generator's filters over a file of pairs that is there already."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from services.generation.commands.options import app
from services.generation.pairs.filters import NO_PROMPT, Draft, reject
from services.generation.pairs.prompts import lanes_for, topical_prompt
from services.generation.pairs.tasks import MAX_EXEMPLARS, TaskSpec, first_problem, load_all_tasks
from shared.errors import Fatal
from shared.pairs import Pair


@dataclass(frozen=True)
class FilterOptions:
    """What was asked for."""

    file: Path
    task: str
    out: Path | None
    rejected: Path | None
    is_sentence1_filtered: bool


@app.command("filter")
def options(
    file: Annotated[Path, typer.Argument(help="pairs as JSON Lines; - reads standard input")],
    task: Annotated[str, typer.Option(metavar="NAME", help="the task that they were written for")] = "sts",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="write the pairs that stay")] = None,
    rejected: Annotated[Path | None, typer.Option(metavar="FILE", help="write the others, with their reasons")] = None,
    first_sentences: Annotated[
        bool, typer.Option("--first-sentences", help="filter sentence1 too: the teacher wrote it")
    ] = False,
) -> FilterOptions:
    """Count the pairs of a file that today's filters would throw away, by reason."""
    return FilterOptions(file, task, out, rejected, first_sentences)


def filter_pairs(options: FilterOptions, task_dir: Path | None) -> dict[str, Any]:
    """Filter a file. Returns the counts; raises `Fatal` that names the file and the line.

    Which exemplars a pair's prompt showed is not known: it is compared with all those of its label.
    """
    tasks = load_all_tasks(task_dir)
    if options.task not in tasks:
        raise Fatal(f"--task: there is no task {options.task!r}; known: {', '.join(sorted(tasks))}")
    task, pairs, counts = tasks[options.task], 0, Counter[str]()
    kept, rejected = [], []
    for row, pair in _read(options.file):
        pairs += 1
        if reason := _reason(task, pair, options.is_sentence1_filtered):
            counts[reason] += 1
            rejected.append({**row, "reason": reason})
        else:
            kept.append(row)
    for target, rows in ((options.out, kept), (options.rejected, rejected)):
        if target is not None:
            _write(target, rows)
    return {"pairs": pairs, "rejected": counts.total(), "rejected_by_reason": dict(counts.most_common())}


def _reason(task: TaskSpec, pair: Pair, is_sentence1_filtered: bool) -> str | None:
    """Why a pair is rejected; a reason of its first sentence begins with `sentence1:`."""
    everything = range(MAX_EXEMPLARS)
    if is_sentence1_filtered and task.sentence1 is not None:
        prompt = topical_prompt(task, "", "", everything)
        if reason := reject(Draft(pair.sentence1, prompt=prompt)):
            return f"sentence1: {reason}"
    labels = [name for name, label in task.labels.items() if label.score == pair.score]
    turn = -1 if task.writes_queries else 1
    given, written = (pair.sentence1, pair.sentence2)[::turn]
    prompt = lanes_for(task, labels[0], given, everything)[0] if labels else NO_PROMPT
    return reject(Draft(written, "quote", given, pair.score, prompt, task.writes_queries))


def _read(file: Path) -> Iterator[tuple[dict[str, Any], Pair]]:
    number = 0
    try:
        with (Path("/dev/stdin") if str(file) == "-" else file).open(encoding="utf-8-sig") as lines:
            for line in lines:
                number += 1
                row = json.loads(line)
                yield row, Pair(**{name: row[name] for name in Pair.model_fields})
    except ValidationError as error:
        raise Fatal(f"{file}, line {number}: {': '.join(first_problem(error))}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise Fatal(f"{file}, line {number}: is not a pair: {error!r}") from None
    except OSError as error:
        raise Fatal(f"{file}: {error.strerror}") from None


def _write(target: Path, rows: list[dict[str, Any]]) -> None:
    try:
        with target.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise Fatal(f"{target}: {error.strerror}") from None
