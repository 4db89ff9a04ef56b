"""A run on a cluster, from its inputs to the manifest: read, then pass by pass write shards and merge them in order.

    run.json                        what it was begun with
    work/inputs/000000.parquet      given sentences or passages, each once, in order
    work/items-00/000000.parquet    work items of the first pass, a shard
    work/results-00/000000.parquet  what became of them
    pairs/00-000000.parquet         the accepted pairs of a shard
    manifest.json                   counts by label and reason; written last, `work` is removed after it

Everything is a function of the plan and the inputs, and each step's files appear whole: the same command goes on from
whatever is there. Memory on the driver's machine grows by bytes an input, not by pairs.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from pyarrow import fs
from pydantic import SecretStr

from services.generation.cluster.known import KnownWords
from services.generation.cluster.merging import Merger
from services.generation.cluster.reading import WHOLE_FILE, GivenText, read_given
from services.generation.cluster.writing import RUN_FILE, Run, ShardWriter, item_json
from services.generation.jobs.progress import JobProgress
from services.generation.pairs.languages import language_warning, teacher_languages
from services.generation.pairs.plan import PLAN_VERSION, ResolvedPlan, plan_hash
from services.generation.pairs.work_item import WorkItem
from services.generation.settings import GenerationSettings
from shared.errors import Fatal, first_line
from shared.folder import Folder, Lines
from shared.known_texts import KnownTexts
from shared.pair_shards import MANIFEST
from shared.ray_cluster import AGAIN, Pool, call_each, connected, pool_for
from shared.settings import Settings

log = logging.getLogger(__name__)

INPUTS_FILE = "work/inputs.json"
SHARDS_AT_ONE_TIME = 2
"""In a process: the engine stays full while one shard ends and the next begins."""

Show = Callable[[JobProgress], None]
Write = Callable[[int, Sequence[int]], Iterator[dict[str, Any]]]
"""Has shards of a pass written; yields a row for each as it comes, see `writing.ShardWriter`."""


@dataclass(frozen=True)
class ClusterOptions:
    """What `generate --cluster` was asked for beside the plan."""

    address: str
    out: str
    inputs: str | None
    """A file or folder, by its path or URI."""
    column: str | None = None
    skip_bad: bool = False
    actors: int | None = None
    cpus: int | None = None
    shard_size: int = 1000


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    manifest: dict[str, Any]
    examples: list[dict[str, Any]]
    """Its first pairs; none if it was finished before."""
    rejected: list[dict[str, Any]]
    progress: JobProgress | None
    folder: Folder


def generate_on_cluster(
    options: ClusterOptions, plan: ResolvedPlan, common: Settings, own: GenerationSettings, show: Show
) -> Outcome:
    """Write what is missing in the folder. `plan` has inputs only where a person gave them in it. Raises `Fatal`."""
    try:
        folder = Folder(options.out)
        header = _header(options, plan, common.teacher)
        _begin(folder, header)
        if (finished := folder.read(MANIFEST)) is not None:
            return Outcome(json.loads(finished), [], [], None, folder)
        # Keys stay here: an engine needs none.
        passed_on = common.model_copy(update={"api_keys": SecretStr("")})
        run = Run(folder, header, plan, passed_on, own, 0, options.shard_size)
        with connected(options.address, "generation"):
            pool = pool_for(options.actors, options.cpus, own.tensor_parallel_size)
            given = _inputs(options, plan, run.given())
            texts = given["texts"] if given else 0
            _warn(plan, run, texts, common, own)
            counted = {} if plan.pairs is not None or not texts else {"num_inputs": texts}
            plan = plan.model_copy(update={"inputs": None, **counted})
            run = Run(folder, header, plan, passed_on, own, texts, options.shard_size)
            progress, merger, times = write_all(run, partial(_write_shards, run, pool), show)
            facts = {"given": given, "actors": pool.actors}
            return Outcome(
                _manifest(run, facts, progress, merger, times), merger.examples, merger.rejected, progress, folder
            )
    except OSError as error:
        place = error.filename or options.out
        raise Fatal(f"--out: {place}: {error.strerror or first_line(error)}; {AGAIN}") from None


def _write_shards(run: Run, pool: Pool, pass_number: int, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Raises `Fatal`."""
    rows = [{"pass_number": pass_number, "shard": shard} for shard in shards]
    return call_each(ShardWriter, (run,), rows, pool, SHARDS_AT_ONE_TIME)


def _warn(plan: ResolvedPlan, run: Run, texts: int, common: Settings, own: GenerationSettings) -> None:
    """Say it where the first inputs are in a language that the teacher doesn't write."""
    seen = plan.model_copy(update={"inputs": list(run.given().between(0, min(texts, run.shard_size))) or None})
    if warning := language_warning(seen, teacher_languages(own.teacher_languages, common.teacher), common.teacher):
        sys.stderr.write(f"warning: {warning}\n")


def _header(options: ClusterOptions, plan: ResolvedPlan, teacher: str) -> bytes:
    """What must be the same for a run to go on. Raises `Fatal` for inputs that aren't there."""
    inputs: Any = None
    if options.inputs is not None:
        inputs = {"column": options.column, "files": _listing(options.inputs)}
    parts: dict[str, Any] = {"version": PLAN_VERSION, "plan": plan_hash(plan), "teacher": teacher}
    parts |= {"inputs": inputs, "shard": options.shard_size}
    return json.dumps(parts).encode()


def _listing(uri: str) -> str:
    """Stands for the files' names and sizes."""
    try:
        source = Folder(uri)
        files, path = fs.FileSystem.from_uri(source.uri)
        info = files.get_file_info(path)
        found = [info] if info.is_file else files.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, ValueError) as error:
        raise Fatal(f"--inputs: {uri}: {getattr(error, 'strerror', None) or first_line(error)}") from None
    sizes = sorted((one.path.removeprefix(path), one.size) for one in found if one.is_file)
    if not sizes:
        raise Fatal(f"--inputs: {uri}: there is no file")
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()


def _begin(folder: Folder, header: bytes) -> None:
    """Raises `Fatal` where the folder belongs to another run."""
    before = folder.read(RUN_FILE)
    if before is None:
        folder.write(RUN_FILE, header)
    elif before != header:
        old, new = json.loads(before), json.loads(header)
        names = " and ".join(name for name in new if old.get(name) != new[name])
        raise Fatal(f"--out: {folder.uri} was begun with another {names}: give another --out, or remove the folder")


def _inputs(options: ClusterOptions, plan: ResolvedPlan, given: Lines) -> dict[str, Any] | None:
    """Number the inputs, each taken once, and keep them in shards; their counts. None if the teacher writes them."""
    if options.inputs is None and plan.inputs is None:
        return None
    folder = given.folder
    if (before := folder.read(INPUTS_FILE)) is not None:
        return dict(json.loads(before))
    if options.inputs is None:
        rows: Iterator[GivenText] = (GivenText("", 1, text, None) for text in plan.inputs or ())
    else:
        rows = read_given(options.inputs, options.column, plan.task.writes_queries)
    counts: dict[str, Any] = {"texts": 0, "duplicates": 0, "bad": 0, "first_bad": ""}
    shards = _in_portions(_different(rows, counts, options.skip_bad), given.size)
    for shard, lines in enumerate(shards):
        given.write(shard, lines)
        counts["texts"] += len(lines)
    if not counts["texts"]:
        raise Fatal(f"--inputs: {options.inputs} holds no sentence; {counts['first_bad']}".rstrip("; "))
    folder.write(INPUTS_FILE, json.dumps(counts).encode())
    return counts


def _different(rows: Iterator[GivenText], counts: dict[str, Any], skip_bad: bool) -> Iterator[str]:
    """Each text the first time that it comes. Raises `Fatal` for a bad row, unless they are to be passed over."""
    with KnownTexts() as known:
        for row in rows:
            if row.text is None:
                place = row.path if row.number == WHOLE_FILE else f"{row.path}, row {row.number}"
                message = f"{place}: {row.problem}"
                if row.number == WHOLE_FILE or not skip_bad:
                    advice = "" if row.number == WHOLE_FILE else "; mend it, or pass over such rows with --skip-bad"
                    raise Fatal(f"--inputs: {message}{advice}")
                counts["bad"] += 1
                counts["first_bad"] = counts["first_bad"] or message
            elif known.add(row.text):
                yield row.text
            else:
                counts["duplicates"] += 1


def _in_portions(lines: Iterator[str], size: int) -> Iterator[list[str]]:
    while portion := list(islice(lines, size)):
        yield portion


@dataclass
class Times:
    """When this run's engines wrote: seconds since the epoch, of the machines' own clocks."""

    began: float = 0.0
    ended: float = 0.0
    samples: int = 0

    def add(self, row: dict[str, Any]) -> None:
        self.began = min(self.began or row["began"], row["began"])
        self.ended = max(self.ended, row["ended"])
        self.samples += row["samples"]


def write_all(run: Run, write: Write, show: Show) -> tuple[JobProgress, Merger, Times]:
    """Pass by pass, what the plan asks for. Raises `Fatal`, `OSError`."""
    with KnownTexts() as hashes, KnownWords() as queries:
        progress = JobProgress(run.plan, queries)
        merger, times, pass_number = Merger(run, progress, hashes), Times(), 0
        while not progress.done:
            _write_pass(run, write, progress, merger, pass_number, times, show)
            pass_number += 1
    return progress, merger, times


def _manifest(run: Run, facts: dict[str, Any], progress: JobProgress, merger: Merger, times: Times) -> dict[str, Any]:
    return {
        "version": 1,
        **json.loads(run.header),
        "task": run.plan.task.task_name,
        "seed": run.plan.seed,
        **progress.counts(),
        **facts,
        "seconds": round(times.ended - times.began, 3),
        "samples_in_these_seconds": times.samples,
        "shards": [shard for shard in merger.shards if shard["file"]],
        "shards_without_pairs": [shard for shard in merger.shards if not shard["file"]],
    }


def finish(outcome: Outcome, texts: dict[str, str]) -> None:
    """Write these files and then the manifest, and remove what the run alone needed. Raises `Fatal`."""
    folder = outcome.folder
    try:
        for name, text in texts.items():
            folder.write(name, text.encode())
        folder.write(MANIFEST, (json.dumps(outcome.manifest, indent=1, ensure_ascii=False) + "\n").encode())
        folder.remove("work")
    except OSError as error:
        raise Fatal(f"--out: {error.filename or folder.uri}: {error.strerror or first_line(error)}; {AGAIN}") from None


def _write_pass(
    run: Run, write: Write, progress: JobProgress, merger: Merger, pass_number: int, times: Times, show: Show
) -> None:
    """Write the shards of a pass that are missing, and merge all of them, each as soon as those before it are in."""
    first, last = progress.recorded, progress.total
    size, results = run.shard_size, run.results(pass_number)
    shards = range(-(-(last - first) // size))
    lengths = [min(size, last - first - shard * size) for shard in shards]
    _write_items(run, progress, pass_number, first, last)
    there = {shard for shard in results.present() if len(results.read(shard) or ()) == lengths[shard]}
    merged = 0

    def merge() -> None:
        nonlocal merged
        while merged < len(shards) and merged in there:
            lines = results.read(merged)
            if lines is None:
                raise FileNotFoundError(f"{results.file(merged)} is missing or torn")
            merger.merge(pass_number, merged, lines)
            merged += 1
            show(progress)

    merge()
    while missing := [shard for shard in shards if shard not in there]:
        problems: list[str] = []
        for row in write(pass_number, missing):
            if row["fatal"]:
                raise Fatal(row["problem"])
            if not _is_written(row, results):
                problems.append(row["problem"])
                continue
            there.add(int(row["shard"]))
            times.add(row)
            merge()
        if len(problems) == len(missing):
            raise Fatal(f"--cluster: {problems[0]}; {AGAIN}")


def _is_written(row: dict[str, Any], results: Lines) -> bool:
    """Whether a shard is there now: what its own machine could not write is written here."""
    if len(row["lines"]):
        log.warning("shard %d is written here instead of there: %s", row["shard"], row["problem"])
        results.write(row["shard"], list(row["lines"]))
    elif row["problem"]:
        log.warning("shard %d could not be written and is tried again: %s", row["shard"], row["problem"])
    return bool(len(row["lines"]) or not row["problem"])


def _write_items(run: Run, progress: JobProgress, pass_number: int, first: int, last: int) -> None:
    """Keep the pass's work items in shards, with what they are given."""
    items = run.items(pass_number)
    present = items.present()
    for shard, begin in enumerate(range(first, last, run.shard_size)):
        if shard in present:
            continue
        some = [progress.work_item(index) for index in range(begin, min(begin + run.shard_size, last))]
        items.write(shard, _with_given(run, some))


def _with_given(run: Run, items: Sequence[WorkItem]) -> list[str]:
    texts: dict[int, str] = {}
    places = [item.number % run.inputs for item in items if item.given is None] if run.inputs else []
    for number in dict.fromkeys(place // run.shard_size for place in places):
        begin = number * run.shard_size
        texts |= enumerate(run.given().between(begin, min(begin + run.shard_size, run.inputs)), start=begin)
    lines = []
    for item in items:
        text = item.given if item.given is not None or not run.inputs else texts[item.number % run.inputs]
        lines.append(item_json.dump_json(replace(item, given=text)).decode())
    return lines
