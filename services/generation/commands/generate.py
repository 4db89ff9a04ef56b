"""`python -m services.generation generate`: the same pairs as a job's, into a file, without HTTP and Redis.

What is done is kept in a journal beside the file, so the same command, run again, goes on where it was interrupted.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from tqdm import tqdm

from services.generation.commands import hub
from services.generation.commands.dataset_card import dataset_card
from services.generation.commands.journal import Journal
from services.generation.decoding.base import Engine
from services.generation.jobs.progress import JobProgress
from services.generation.jobs.records import Record, draft_record, entered, shown, without_surplus
from services.generation.pairs.dino_postprocess import RawPair, dino_dataset
from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.plan import InvalidPlan, Plan
from services.generation.pairs.prompts import Form
from services.generation.pairs.tasks import BUILT_IN, InvalidTask, load_task, load_tasks
from services.generation.settings import GenerationSettings
from shared.errors import Fatal
from shared.pairs import Pair
from shared.process import claim_stdout, configure_logging
from shared.settings import Settings, load
from shared.stream import Append

MakeEngine = Callable[[Settings, GenerationSettings], Awaitable[Engine]]
StartEngine = Callable[[Engine], Awaitable[None]]


async def main(arguments: Sequence[str], make_engine: MakeEngine, start_engine: StartEngine) -> None:
    """Parse, write, tell. Raises `Fatal` with one line for whatever a person can mend."""
    options = _parser().parse_args(arguments)
    answer = claim_stdout()
    common, own = load(Settings), load(GenerationSettings)
    level = "WARNING" if common.log_level == "INFO" else common.log_level
    configure_logging(level, common.log_format, "generation")
    plan = make_plan(options, own)
    if options.push_to_hub:
        hub.check_token()
    with Journal.open(Path(options.out), plan, common.teacher) as journal:
        ledger = JobProgress(plan)
        for record in journal.records:
            ledger.record(record)
        if not ledger.done:
            engine = await make_engine(common, own)
            sys.stderr.write("starting the engine ...\n")
            await start_engine(engine)
            try:
                await write(plan, ledger, PairGenerator(engine), journal)
            finally:
                engine.stop()
    summary = _finish(options, common, plan, ledger, journal)
    print(json.dumps(summary), file=answer, flush=True)


async def write(plan: Plan, ledger: JobProgress, generator: PairGenerator, journal: Journal) -> None:
    """Write all units that the journal hasn't got, recording them in order. Raises what the engine raises."""
    job = Job(plan)
    width = generator.units_in_flight(job)
    seen = {_hash(pair) for record in journal.records for pair in record["pairs"]}
    ahead: dict[int, asyncio.Task[Any]] = {}
    with tqdm(total=ledger.requested, initial=ledger.accepted.total(), unit="pair", smoothing=0.05) as bar:
        try:
            while not ledger.done:
                for index in range(ledger.recorded, min(ledger.total, ledger.recorded + width)):
                    if index not in ahead:
                        ahead[index] = asyncio.create_task(generator.write(job, ledger.assignment(index)))
                await asyncio.wait([ahead[ledger.recorded]])
                draft = without_surplus(draft_record(ahead.pop(ledger.recorded).result()), ledger.room)
                record = entered(draft, [_answer(pair, seen) for pair in draft["pairs"]])
                journal.add(record)
                ledger.record(record)
                bar.update(len(record["pairs"]))
                bar.set_postfix(rejected=ledger.rejected.total(), refresh=False)
        finally:
            for task in ahead.values():
                task.cancel()
            await asyncio.gather(*ahead.values(), return_exceptions=True)


def make_plan(options: argparse.Namespace, own: GenerationSettings) -> Plan:
    """The plan that the options describe, its task specs written out. Raises `Fatal`."""
    given: dict[str, Any] = {
        name: value for name, value in vars(options).items() if name in Plan.model_fields and value is not None
    }
    if options.inputs is not None:
        given["inputs"] = read_inputs(Path(options.inputs))
    if options.plan is not None:
        given = _json_file(Path(options.plan)) | given
    try:
        tasks = load_tasks([BUILT_IN, *([own.task_dir] if own.task_dir else [])])
        for name in ("task", "sentence1_task"):
            if str(given.get(name, "")).endswith(".json"):
                given[name] = load_task(Path(given[name]))
        return Plan.model_validate(given).written_out(tasks)
    except InvalidTask as error:
        raise Fatal(f"--task: {error}") from None
    except InvalidPlan as wrong:
        raise Fatal(f"{_option(wrong.field)}: {wrong.message}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise Fatal(f"{_option(where) + ': ' if where else ''}{message}") from None


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


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


def _hash(pair: dict[str, Any]) -> str:
    return Pair(sentence1=pair["sentence1"], sentence2=pair["sentence2"], score=pair["score"]).content_hash


def _answer(pair: dict[str, Any], seen: set[str]) -> Append:
    """What the pair stream would say."""
    if _hash(pair) in seen:
        return Append.DUPLICATE
    seen.add(_hash(pair))
    return Append.ACCEPTED


def _finish(options: argparse.Namespace, common: Settings, plan: Plan, ledger: JobProgress, journal: Journal) -> Record:
    """Write the files, push them if asked to; how it went."""
    out = Path(options.out)
    pairs = [shown(pair) for record in journal.records for pair in record["pairs"]]
    files = [_write_lines(out, pairs)]
    if plan.preset == "dino":
        raw = [RawPair(pair["sentence1"], pair["sentence2"], pair["score"]) for pair in pairs]
        rows = [pair._asdict() for pair in dino_dataset(raw, plan.seed)]
        files.append(_write_lines(out.with_suffix(f".postprocessed{out.suffix}"), rows))
    card = out.with_suffix(".card.md")
    card.write_text(dataset_card(plan, ledger, common.teacher, [file.name for file in files], pairs), encoding="utf-8")
    if options.push_to_hub:
        hub.push(options.push_to_hub, files, card)
    return {
        "state": ledger.outcome,
        "requested": ledger.requested,
        "accepted": ledger.accepted.total(),
        "accepted_by_label": dict(ledger.accepted),
        "rejected_by_reason": dict(ledger.rejected),
        "samples": ledger.samples,
        "files": [str(file) for file in (*files, card)],
    }


def _write_lines(file: Path, rows: Sequence[Record]) -> Path:
    """Replace a file by JSON Lines in one step."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w", encoding="utf-8") as target:
        target.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary.replace(file)
    return file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.generation", description="Without a command: serve HTTP.")
    commands = parser.add_subparsers(required=True, metavar="generate")
    generate = commands.add_parser(
        "generate",
        help="write labelled pairs into a file",
        description="Write labelled pairs into a file, with a journal, a dataset card and a progress bar beside it. "
        "Interrupted, the same command goes on. The engine is set as for the service (PAIRWRIGHT_...).",
    )
    generate.add_argument("--out", required=True, metavar="FILE", help="the pairs, as JSON Lines")
    generate.add_argument("--task", metavar="NAME", help="a task, or the file of a task spec (*.json); default sts")
    generate.add_argument("--inputs", metavar="FILE", help="first sentences: one a line, or *.jsonl with sentence1")
    generate.add_argument("--num-inputs", type=int, metavar="N", help="the teacher writes so many first sentences")
    generate.add_argument("--pairs", type=int, metavar="N", help="accepted pairs wanted for each label in all")
    generate.add_argument("--preset", choices=["default", "dino"])
    generate.add_argument("--labels", nargs="+", metavar="LABEL")
    generate.add_argument("--pairs-per-label", type=int, metavar="N", help="for each first sentence")
    generate.add_argument("--attempts", type=int, metavar="N")
    generate.add_argument("--exemplars", type=int, metavar="N")
    generate.add_argument("--prompt-form", choices=get_args(Form))
    generate.add_argument("--sentence1-task", metavar="NAME", help="a task without <X1>, such as the original's sts-x1")
    generate.add_argument("--seed", type=int)
    generate.add_argument("--plan", metavar="FILE", help="more fields, as the body of POST /generate")
    generate.add_argument("--push-to-hub", metavar="REPO", help="upload file and card to this dataset repository")
    return parser
