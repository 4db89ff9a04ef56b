"""`python -m services.generation generate`: the same pairs as a job's, into a file, without HTTP and Redis."""

import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub

from services.generation.commands import documents  # noqa: F401
from services.generation.commands.bar import shown
from services.generation.commands.cluster import generate_on_cluster
from services.generation.commands.dataset_card import dataset_card
from services.generation.commands.filter_pairs import FilterOptions, filter_pairs
from services.generation.commands.journal import Journal, last_passage
from services.generation.commands.options import Options, make_plan, parse
from services.generation.decoding.factory import make_engine, start_engine
from services.generation.documents.options import DocumentOptions
from services.generation.jobs.ordered_writer import OrderedWriter
from services.generation.jobs.progress import JobProgress
from services.generation.pairs.corpus_source import CorpusSource, NoCorpus
from services.generation.pairs.dino_postprocess import dino_dataset
from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.languages import language_warning, teacher_languages
from services.generation.pairs.plan import InvalidPlan, ResolvedPlan
from services.generation.pairs.work_item import public_pairs, public_rejected
from services.generation.settings import GenerationSettings
from shared.errors import Fatal, first_line
from shared.process import claim_stdout, configure_logging
from shared.settings import Settings, load

AddDocuments = Callable[[DocumentOptions, Settings, GenerationSettings], Awaitable[dict[str, Any]]]


async def main(arguments: Sequence[str], add_documents: AddDocuments) -> None:
    """Parse, write, print the summary. Raises `Fatal` with one line for whatever a person can mend."""
    options = parse(arguments)
    if isinstance(options, DocumentOptions):
        summary = await add_documents(options, load(Settings), load(GenerationSettings))
        for warning in summary["warnings"]:
            sys.stderr.write(f"warning: {warning}\n")
        sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n")
        return
    if isinstance(options, FilterOptions):
        counts = filter_pairs(options, load(GenerationSettings).task_dir)
        sys.stdout.write(json.dumps(counts, ensure_ascii=False) + "\n")
        return
    if options.cluster is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's would wait for a loop that never comes
        generate_on_cluster(options)
        return
    await _generate(options)


async def _generate(options: Options) -> None:
    """Write the pairs, then the files and the summary. Raises `Fatal`."""
    stdout = claim_stdout()
    common, own = load(Settings), load(GenerationSettings)
    configure_logging("WARNING" if common.log_level == "INFO" else common.log_level, common.log_format, "generation")
    passages = CorpusSource(common.trainer_url, common.keys)
    plan, journal = prepare(options, common, own, passages)
    with journal:
        progress = JobProgress(plan)
        for result in journal.results:
            progress.record(result)
        seconds = 0.0
        if not progress.done:
            seconds = await _write_missing(plan, common, own, passages, progress, journal)
    try:
        summary = _finish(options, common, plan, progress, journal) | {"seconds": round(seconds, 3)}
    except OSError as error:
        advice = "the journal keeps all pairs; the same command writes the files"
        raise Fatal(f"--out: {error.filename or options.out}: {error.strerror}: {advice}") from None
    print(json.dumps(summary), file=stdout, flush=True)


async def _write_missing(
    plan: ResolvedPlan,
    common: Settings,
    own: GenerationSettings,
    passages: CorpusSource,
    progress: JobProgress,
    journal: Journal,
) -> float:
    """Have the teacher write what the journal doesn't have yet; in how many seconds. Raises `Fatal`."""
    if warning := language_warning(plan, teacher_languages(own.teacher_languages, common.teacher), common.teacher):
        sys.stderr.write(f"warning: {warning}\n")
    engine = await make_engine(common, own)
    sys.stderr.write("starting the engine ...\n")
    await start_engine(engine)
    try:
        generator = PairGenerator(engine)
        generator.check_form(plan)
        job = Job(plan, dataset=common.dataset, teacher=common.teacher, corpus=passages.corpus(plan))
        began = time.monotonic()
        await write(job, progress, generator, journal, with_bar=common.log_format == "human")
        return time.monotonic() - began
    except InvalidPlan as error:
        raise Fatal(f"--{error.field.replace('_', '-')}: {error.message}") from None
    except NoCorpus as error:
        raise Fatal(f"--queries: {error}") from None
    finally:
        engine.stop()


def prepare(
    options: Options, common: Settings, own: GenerationSettings, passages: CorpusSource
) -> tuple[ResolvedPlan, Journal]:
    """The plan and its open journal. Raises `Fatal` for whatever can be wrong before the engine starts."""
    plan = make_plan(options, own.task_dir)
    if plan.queries is not None:
        plan = _with_last_passage(plan, options.out, passages)
    if options.push_to_hub and not huggingface_hub.get_token():  # better before hours of work than after
        raise Fatal("--push-to-hub: there is no token; set HF_TOKEN, or log in with `hf auth login`")
    if options.rejected is not None and not options.rejected.resolve().parent.is_dir():
        raise Fatal(f"--rejected: there is no folder {options.rejected.parent}")
    return plan, Journal.open(options.out, plan, common.teacher)


def _with_last_passage(plan: ResolvedPlan, out: Path, passages: CorpusSource) -> ResolvedPlan:
    """The plan with the dataset's last passage, as the journal has it, else as it is now. Raises `Fatal`."""
    if (last := last_passage(out)) is not None:
        return plan.model_copy(update={"last_passage": last})
    try:
        return passages.pin(plan)
    except NoCorpus as error:
        raise Fatal(f"--queries: the dataset's passages can't be read: {error}") from None
    except InvalidPlan as error:
        raise Fatal(f"--queries: {error.message}") from None


async def write(job: Job, progress: JobProgress, generator: PairGenerator, journal: Journal, with_bar: bool) -> None:
    """Write all work items that the journal hasn't got, recording them in order. Raises what the engine raises."""
    hashes = {record.pair.content_hash for result in journal.results for record in result.pairs.values()}
    writer = OrderedWriter(generator, job, progress)
    with shown(progress.requested, with_bar) as show:
        try:
            while not progress.done:
                for result in await writer.take(1):
                    journal.add(progress.accept(result, hashes))
                show(progress)
        finally:
            await writer.stop()


def _finish(
    options: Options, common: Settings, plan: ResolvedPlan, progress: JobProgress, journal: Journal
) -> dict[str, Any]:
    """Write the files, push them if asked to; how it went."""
    out, pairs = options.out, public_pairs(journal.results)
    files = [_write_lines(out, pairs)]
    if plan.preset == "dino":
        files.append(_write_lines(out.with_suffix(f".postprocessed{out.suffix}"), dino_dataset(pairs, plan.seed)))
    rejected = [] if options.rejected is None else [_write_lines(options.rejected, public_rejected(journal.results))]
    card, names = out.with_suffix(".card.md"), [file.name for file in files]
    card.write_text(dataset_card(plan, progress, common.teacher, names, pairs), encoding="utf-8")
    if options.push_to_hub:
        _push(options.push_to_hub, files, card)
    return {
        **progress.counts(),
        "files": [str(file) for file in (*files, card, *rejected)],
    }


def _write_lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Replace a file by JSON Lines in one step."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w", encoding="utf-8") as target:
        target.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary.replace(file)
    return file


def _push(repository: str, files: Sequence[Path], card: Path) -> None:
    """Put the files and the card into a dataset repository, which is made if need be. Raises `Fatal`."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi()
    uploads = {card: "README.md"} | {file: file.name for file in files}
    try:
        hub.create_repo(repository, repo_type="dataset", exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for file, name in uploads.items()]
        hub.create_commit(repository, operations, commit_message="Pairs written by Pairwright", repo_type="dataset")
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = f"{repository}: {first_line(error)} (the files are on this disk all the same)"
        raise Fatal(f"--push-to-hub: {problem}") from None
