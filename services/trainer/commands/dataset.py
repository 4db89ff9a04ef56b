"""`python -m services.trainer dataset {stats,export,import}`."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.trainer.dataset.files import BadRow, RowParser, portions, read, write
from services.trainer.dataset.store import Dataset, Origin, open_dataset
from shared.errors import Fatal
from shared.settings import Settings

MOST_ORIGINS = 20
CARD = """---
language: und
task_categories: [sentence-similarity]
tags: [pairwright, synthetic]
configs:
- config_name: default
  data_files: {file}
---
# Sentence pairs collected by Pairwright

{pairs} pairs of the dataset `{dataset}`, {sentences} different `sentence1`.
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


def dataset(settings: Settings, given: argparse.Namespace) -> None:
    """Do what was asked for. Raises `Fatal`."""
    if given.action == "import":
        _import(settings, given)
        return
    with open_dataset(settings.dataset_dir, read_only=True) as opened:
        if given.action == "stats":
            found = stats(opened)
            print(json.dumps(found) if given.json else _spoken(settings.dataset, found))
        else:
            _export(opened, settings.dataset, given.folder, given.format)


def stats(opened: Dataset) -> dict[str, Any]:
    """What is in a dataset."""
    pairs = opened.count()
    return {
        "pairs": pairs,
        "new_pairs": opened.count_new(),
        "hash": opened.hash(pairs),
        **opened.sentences(),
        "scores": {f"{score:g}": count for score, count in opened.scores().items()},
        "origins": [origin._asdict() for origin in opened.origins(pairs)],
        "rounds": [asdict(round_) for round_ in opened.rounds()],
    }


def _export(opened: Dataset, name: str, folder: Path, kind: str) -> None:
    file = folder / f"pairs.{kind}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = write(opened.records(), file)
        (folder / "README.md").write_text(_card(name, stats(opened), file.name), encoding="utf-8")
    except OSError as error:
        raise Fatal(f"{folder}: can't be written: {error.strerror or error}") from None
    print(f"{written} pairs are in {file}, and what they are in {folder / 'README.md'}")


def _import(settings: Settings, given: argparse.Namespace) -> None:
    low, high = given.scale
    if not high > low:
        raise Fatal("--scale: LOW must be less than HIGH")
    if not given.file.is_file():
        raise Fatal(f"there is no file {str(given.file)!r}")
    taker = RowParser(settings.dataset, (low, high), given.source or given.file.name)
    read_, new, bad = 0, 0, 0
    with open_dataset(settings.dataset_dir) as opened:
        for portion in portions(read(given.file)):
            records, fault = [], None
            for number, row in portion:
                try:
                    records.append(taker.record(f"{given.file}, row {number}", row))
                except BadRow as error:
                    bad += 1
                    if not given.skip_bad:
                        fault = error
                        break
            new += opened.add(records)
            read_ += len(records)
            if fault is not None:
                raise Fatal(
                    f"{fault}. The {read_} rows before are kept; mend the file and import it again, or --skip-bad"
                )
    skipped = f", {bad} rows were no pairs" if bad else ""
    print(f"{new} new pairs of {read_} in {given.file}{skipped}; the dataset {settings.dataset} has them now")


def _spoken(name: str, found: dict[str, Any]) -> str:
    lines = [
        f"dataset {name}: {found['pairs']} pairs, {found['new_pairs']} since the last round",
        f"hash {found['hash']}",
        f"{found['different_sentence1']} different sentence1; {found['mean_characters']:.0f} characters a sentence",
        "pairs by score",
        *(f"  {score:<6} {count}" for score, count in found["scores"].items()),
        "pairs by teacher, task and label",
        *(
            f"  {one['teacher']}, {one['task']}, {one['label']}: {one['pairs']}"
            for one in found["origins"][:MOST_ORIGINS]
        ),
        *([f"  and {len(found['origins']) - MOST_ORIGINS} more"] if len(found["origins"]) > MOST_ORIGINS else []),
        "rounds",
        *(_round(one) for one in found["rounds"]),
    ]
    return "\n".join(lines)


def _round(one: dict[str, Any]) -> str:
    reason = f" ({one['reason']})" if one["reason"] else ""
    return f"  {one['id']}: {one['state']}, {one['pairs']} pairs, {one['version'] or 'no version'}{reason}"


def _card(name: str, found: dict[str, Any], file: str) -> str:
    origins = [Origin(**one) for one in found["origins"]]
    return CARD.format(
        file=file,
        dataset=name,
        pairs=found["pairs"],
        sentences=found["different_sentence1"],
        hash=found["hash"],
        scores="\n".join(f"| {score} | {count} |" for score, count in found["scores"].items()),
        origins="\n".join(f"| {one.teacher} | {one.task} | {one.label} | {one.pairs} |" for one in origins[:100]),
    )
