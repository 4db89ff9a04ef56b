"""What `documents add` was asked for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DocumentOptions:
    """Sizes are in tokens of the teacher."""

    paths: list[Path]
    column: str | None
    encoding: str | None
    size: int
    overlap: int
    window: int
    dry_run: bool
    skip_bad: bool
