"""The options of `documents add`."""

from pathlib import Path
from typing import Annotated

import typer

from services.generation.commands.options import app
from services.generation.documents.options import DocumentOptions

documents = typer.Typer(help="Give the dataset documents: what queries are written for, and searched in.")
app.add_typer(documents, name="documents")

PATHS_HELP = "files, or folders with all that is in them: .txt .md .html .pdf .docx, and tables with a document a row"
COLUMN_HELP = "the column of tables that has the text; left out: text, body, content, passage, document or abstract"


@documents.callback()
def _group() -> None:
    """Give the dataset documents: what queries are written for, and searched in."""


@documents.command()
def add(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR|FILE...", help=PATHS_HELP)],
    column: Annotated[str | None, typer.Option(metavar="NAME", help=COLUMN_HELP)] = None,
    encoding: Annotated[str | None, typer.Option(metavar="NAME", help="of text and HTML, if not UTF-8")] = None,
    size: Annotated[int, typer.Option(min=16, max=512, help="most tokens of a passage, its title among them")] = 256,
    overlap: Annotated[int, typer.Option(min=0, max=256, help="tokens that neighbouring passages share")] = 0,
    window: Annotated[int, typer.Option(min=16, help="how many tokens the student reads; more are counted")] = 256,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="count, show the first passages, keep nothing")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="pass over what can't be read, and count it")] = False,
) -> DocumentOptions:
    """Read files, cut them into passages and give them to the trainer.

    Interrupted, the same command goes on; what has changed since is replaced, and what hasn't is left as it is.
    """
    if overlap * 2 > size:
        raise typer.BadParameter("--overlap: must be at most half of --size")
    return DocumentOptions(paths, column, encoding, size, overlap, window, dry_run, skip_bad)
