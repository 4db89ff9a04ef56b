"""`make adapt CORPUS=PATH`: documents or short texts in, a student out that is better at them, and by how much it is.

The last line on stdout is one JSON object. Interrupted, the same command goes on.
"""

import argparse
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.adaptation import Request, adapt
from scripts.judgements import BadInput, Judgements, read_judgements
from scripts.stack import run_command
from shared.errors import Fatal
from shared.process import configure_logging
from shared.settings import MADE_STUDENTS, Settings, load, student_name
from shared.teacher import folder_or_hub_id


def _corpus(path: Path) -> Path:
    """The corpus. Raises `BadInput` if nothing is there."""
    if not path.exists():
        raise BadInput(f"CORPUS: there is no file or folder {str(path)!r}")
    if not os.access(path, os.R_OK):
        raise BadInput(f"CORPUS: this user can't read {str(path)!r}")
    if path.is_dir() and not any(file.is_file() for file in path.rglob("*")):
        raise BadInput(f"CORPUS: there is no file in {str(path)!r}")
    if path.is_file() and not path.stat().st_size:
        raise BadInput(f"CORPUS: the file {str(path)!r} is empty")
    return path.resolve()


def _settings(student: str | None, corpus: Path) -> Settings:
    """With a dataset of this corpus' and student's own, unless one is set. Raises `BadInput` for a bad student."""
    settings = load(Settings)
    student = student_name(student or settings.student)
    if student not in MADE_STUDENTS:
        try:
            student = folder_or_hub_id(student, "STUDENT", "modules.json", "config.json")
        except Fatal as error:
            raise BadInput(str(error)) from None
    update = {"student": student}
    if "dataset" not in settings.model_fields_set:
        name = re.sub(r"[^a-z0-9]+", "-", corpus.stem.lower()).strip("-")[:40] or "corpus"
        facts = hashlib.sha256(f"{corpus}\0{student}\0{settings.teacher}".encode()).hexdigest()
        update["dataset"] = f"{name}-{facts[:8]}"
    return settings.model_copy(update=update)


def main() -> dict[str, Any]:
    """Parse the arguments and run. Raises `Fatal`; ends with exit status 2 for a wrong argument."""
    parser = argparse.ArgumentParser(prog="make adapt", description="Texts in, a better student out.")
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="documents: a folder or file; or short texts")
    parser.add_argument("--student", metavar="MODEL", help="default, compact, teacher, a folder or a hub id")
    parser.add_argument("--eval", type=Path, metavar="DIR", help="what people judged: a BEIR folder, or files")
    parser.add_argument("--queries", type=int, metavar="N", help="queries, or short texts that get pairs")
    arguments = parser.parse_args()
    try:
        if arguments.queries is not None and arguments.queries < 1:
            raise BadInput(f"QUERIES: {arguments.queries} is not a number of queries")
        corpus = _corpus(arguments.corpus)
        settings = _settings(arguments.student, corpus)
        judged = read_judgements(arguments.eval) if arguments.eval else Judgements()
    except BadInput as error:
        sys.stderr.write(f"pairwright adapt: {error}\n")
        sys.exit(2)
    configure_logging(settings.log_level)
    return adapt(Request(corpus, settings, judged, arguments.queries), Console(highlight=False))


if __name__ == "__main__":
    run_command("adapt", main)
