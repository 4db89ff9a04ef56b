"""`python -m services.trainer map VERSION`: what the trainer's child process does for `GET /map`."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.trainer.dataset.store import open_dataset
from shared.errors import Fatal, first_line
from shared.model_store import ModelStore, NoVersion
from shared.process import claim_stdout, configure_logging, disable_openmp_spinning, exit_with
from shared.settings import Settings, load

KEPT = 4
"""Maps; older ones are deleted."""
SEED = 0
NICE = 5
"""Rounds and generation go first, yet a busy machine has its map too: it gets a quarter of what they get."""


def make_map(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="an id, current or previous")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the map, as JSON; it appears whole or not at all")],
    limit: Annotated[int, typer.Option(help="at most so many texts")] = 20_000,
) -> None:
    """Place the dataset's texts in the plane as a version sees them, and report how it goes as JSON lines."""
    disable_openmp_spinning()
    output = claim_stdout()

    def report(state: str, done: int, of: int) -> None:
        output.write(json.dumps({"state": state, "done": done, "of": of}) + "\n")
        output.flush()

    try:
        settings = load(Settings)
        configure_logging(settings.log_level, settings.log_format, "trainer")
        report("loading", 0, 0)
        store = ModelStore(settings.models_dir)
        id_ = store.resolve(version)
        with open_dataset(settings.dataset_dir, read_only=True) as dataset:
            texts, size = dataset.sample_texts(limit, SEED), dataset.corpus_size()
            counts, surprises = {"pairs": dataset.count(), "passages": size.passages}, dataset.surprises()
        from services.trainer.mapping.build import build_map  # not before: libraries may print when they are imported
        from services.trainer.models import encoder

        model = encoder.load(str(store.path(id_)), f"version {id_}")
        os.nice(NICE)
        made = build_map(id_, texts, surprises, lambda some: encoder.encode(model, some), report) | counts
        _write(file, made)
    except (Fatal, NoVersion, OSError) as error:
        output.write(json.dumps({"error": first_line(error)}) + "\n")
        output.flush()
        exit_with("trainer", Fatal(f"the map: {first_line(error)}"))
    sys.stdout.flush()
    os._exit(0)  # threads of the libraries may be slow to end


def _write(file: Path, made: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    temporary.replace(file)
    newest_last = sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
    for old in newest_last[:-KEPT]:
        old.unlink(missing_ok=True)
