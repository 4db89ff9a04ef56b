"""`python -m services.trainer dataset {stats,export,import,delete}`."""

import asyncio
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from redis.exceptions import RedisError

from services.trainer.commands.base import AsJson, configured, group
from services.trainer.dataset.pair_rows import PORTION, Selection
from services.trainer.dataset.store import Dataset, open_dataset
from shared.errors import Fatal, first_line
from shared.pair_shards import shard_files
from shared.queue import open_queue
from shared.redis import command_client
from shared.settings import Settings
from shared.stream import PairStream

log = logging.getLogger(__name__)

app = group("Look at the collected pairs, write them to a file, take some in, delete some.")

MOST_ORIGINS = 20
SCALE_HELP = "the scores' scale, if not 0 to 1"
SOURCE_HELP = "what the provenance names as teacher, for pairs that don't say; the file's name"
SKIP_HELP = "pass over rows that are no pairs instead of ending there"
COLUMNS_HELP = "what the file calls sentence1, sentence2 and score, as in anchor=sentence1,positive=sentence2"
TEXT_HELP = "what one of the two sentences contains, letter for letter"
FILE_HELP = "a table, JSON or Parquet by the name's end; an original STS-DINO file; a folder of `generate --cluster`"
CARD = """---
language: und
task_categories: [sentence-similarity]
tags: [pairwright, synthetic]
configs:
- config_name: default
  data_files: {file}
---
# Sentence pairs collected by Pairwright

{pairs} pairs of the dataset `{dataset}`, {different_sentence1} different `sentence1`.
`score` runs from 0 (different topics) to 1 (same meaning).

Dataset hash (SHA-256 over the sorted content hashes and scores): `{hash}`

| score | pairs |
| --- | --- |
{scores}

## Where they come from

`teacher` names the language model that wrote a pair, or the file that it was imported from; its licence applies.
The labels are what the teacher was *asked* for, not what a person judged.

| teacher | task | label | pairs |
| --- | --- | --- | --- |
{origins}
"""


@app.command("stats")
def print_stats(as_json: AsJson = False) -> None:
    """How many pairs, by score and origin, and what became of the rounds."""
    settings = configured()
    with open_dataset(settings.dataset_dir, read_only=True) as dataset:
        facts = stats(dataset)
    print(json.dumps(facts) if as_json else _text(settings.dataset, facts))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="a folder, which is made")],
    form: Annotated[Literal["parquet", "jsonl"], typer.Option("--format")] = "parquet",
) -> None:
    """Write all pairs with their provenance, and a dataset card beside them."""
    from services.trainer.dataset.files import write

    settings, file = configured(), folder / f"pairs.{form}"
    with open_dataset(settings.dataset_dir, read_only=True) as dataset:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            written = write(dataset.records(), file)
            (folder / "README.md").write_text(_card(settings.dataset, stats(dataset), file.name), encoding="utf-8")
        except OSError as error:
            raise Fatal(f"{folder}: can't be written: {error.strerror or error}") from None
    print(f"{written} pairs are in {file}, and what they are in {folder / 'README.md'}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help=FILE_HELP)],
    scale: Annotated[tuple[float, float], typer.Option(metavar="LOW HIGH", help=SCALE_HELP)] = (0.0, 1.0),
    source: Annotated[str | None, typer.Option(help=SOURCE_HELP)] = None,
    columns: Annotated[str | None, typer.Option(metavar="THEIRS=OURS,...", help=COLUMNS_HELP)] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help=SKIP_HELP)] = False,
) -> None:
    """Take in pairs from a file; a pair that is there already with another score gets the one of the file."""
    from services.trainer.dataset.files import columns_from, parse_row, portions
    from shared.tables import BadRow, place

    settings, (low, high), names = configured(), scale, columns_from(columns)
    if not -math.inf < low < high < math.inf:
        raise Fatal("--scale: LOW must be less than HIGH")
    files = _files(file)
    rows, new, updated, bad, first_bad = 0, 0, 0, 0, ""
    with open_dataset(settings.dataset_dir) as dataset:
        for portion in portions(_rows_of(files)):
            records = []
            for part, number, row in portion:
                try:
                    records.append(parse_row(row, settings.dataset, scale, source or file.name, names))
                except BadRow as error:
                    bad, first_bad = bad + 1, first_bad or f"{place(part, number)}: {error}"
                    if not skip_bad:
                        dataset.add(records)
                        kept = f"The {rows + len(records)} rows before are kept; mend the file and import it again"
                        raise Fatal(f"{part}, {first_bad}. {kept}, or --skip-bad") from None
            added = dataset.add(records)
            new, updated, rows = new + added.new, updated + added.updated, rows + len(records)
    if not rows:
        raise Fatal(f"{file}: " + (f"none of its {bad} rows is a pair; {first_bad}" if bad else "has no rows"))
    skipped = f", {bad} rows were no pairs (the first, {first_bad})" if bad else ""
    counts = f"{new} new pairs of {rows} in {file}, {updated} updated{skipped}"
    print(f"{counts}; the dataset {settings.dataset} has them now")


def _files(path: Path) -> Sequence[Path]:
    """A file, or those of a folder that `generate --cluster` wrote. Raises `Fatal`."""
    if path.is_dir():
        return list(shard_files(path))
    if not path.is_file():
        raise Fatal(f"there is no file {str(path)!r}")
    return [path]


def _rows_of(files: Sequence[Path]) -> Iterator[tuple[Path, int, Any]]:
    """Each row with its file and number. Raises `Fatal`."""
    from shared.tables import read

    for file in files:
        for number, row in read(file):
            yield file, number, row


@app.command()
def delete(
    job: Annotated[str | None, typer.Option(help="the job that wrote them")] = None,
    task: Annotated[str | None, typer.Option(help="the task, `import` for pairs of files that name none")] = None,
    label: Annotated[str | None, typer.Option(help="the task's label")] = None,
    score: Annotated[float | None, typer.Option(min=0, max=1, help="the score, from 0 to 1")] = None,
    text: Annotated[str | None, typer.Option(help=TEXT_HELP)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only count them")] = False,
) -> None:
    """Delete pairs for which everything holds that is given; the next round is without them."""
    settings, selection = configured(), Selection(job, task, label, score, text)
    if not selection or text == "":
        raise Fatal("name the pairs by --job, --task, --label, --score or --text; all that is given must hold")
    with open_dataset(settings.dataset_dir, read_only=True) as dataset:
        selected = dataset.count_selected(selection)
    if dry_run or not selected:
        print(f"{selected} pairs of the dataset {settings.dataset} are selected; none was deleted")
        return
    last, deleted = 0, list[str]()
    with open_dataset(settings.dataset_dir) as dataset:
        while ids := dataset.find(selection, after=last):
            deleted += dataset.remove(ids)
            last = ids[-1]
        left = dataset.count()
    print(f"{len(deleted)} pairs were deleted, {left} are left; the next round is without them")
    _let_come_again(settings, deleted)


def _let_come_again(settings: Settings, hashes: Sequence[str]) -> None:
    """Have the queue forget that deleted pairs were in it: a job that writes them again is no mistake."""
    if not (settings.redis_url or settings.queue_dir.is_dir()):
        return  # there never was a queue

    async def _forget(url: str) -> None:
        redis = command_client(url)
        try:
            for start in range(0, len(hashes), PORTION):
                await PairStream(redis, settings.dataset).forget(hashes[start : start + PORTION])
        finally:
            await redis.aclose()

    try:
        with open_queue(settings.redis_url, settings.queue_dir) as url:
            asyncio.run(_forget(url))
    except (RedisError, OSError, Fatal) as error:
        log.warning("for seven days, jobs can't send these pairs again: the queue: %s", first_line(error))


def stats(dataset: Dataset) -> dict[str, Any]:
    """What is in a dataset."""
    pairs = dataset.count()
    return {
        "pairs": pairs,
        "new_pairs": dataset.count_new(),
        **dataset.corpus_size()._asdict(),
        "hash": dataset.hash(),
        **dataset.sentences(),
        "scores": {f"{score:g}": count for score, count in dataset.scores().items()},
        "origins": [origin._asdict() for origin in dataset.origins()],
        "rounds": [asdict(round_) for round_ in dataset.rounds()],
    }


def _text(name: str, facts: dict[str, Any]) -> str:
    origins = facts["origins"]
    lines = [
        f"dataset {name}: {facts['pairs']} pairs, {facts['new_pairs']} since the last round",
        f"{facts['documents']} documents, {facts['passages']} passages; {facts['duplicates']} more were duplicates",
        f"hash {facts['hash']}",
        f"{facts['different_sentence1']} different sentence1; {facts['mean_characters']:.0f} characters a sentence",
        "pairs by score",
        *(f"  {score:<6} {count}" for score, count in facts["scores"].items()),
        "pairs by teacher, task and label",
        *(f"  {one['teacher']}, {one['task']}, {one['label']}: {one['pairs']}" for one in origins[:MOST_ORIGINS]),
        *([f"  and {len(origins) - MOST_ORIGINS} more"] if len(origins) > MOST_ORIGINS else []),
        "rounds",
        *(_round(one) for one in facts["rounds"]),
    ]
    return "\n".join(lines)


def _round(one: dict[str, Any]) -> str:
    reason = f" ({one['reason']})" if one["reason"] else ""
    return f"  {one['id']}: {one['state']}, {one['pairs']} pairs, {one['version'] or 'no version'}{reason}"


def _card(name: str, facts: dict[str, Any], file: str) -> str:
    scores = "\n".join(f"| {score} | {count} |" for score, count in facts["scores"].items())
    origins = "\n".join("| {teacher} | {task} | {label} | {pairs} |".format(**one) for one in facts["origins"][:100])
    return CARD.format(**facts | {"file": file, "dataset": name, "scores": scores, "origins": origins})
