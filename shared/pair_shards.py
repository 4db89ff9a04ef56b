"""A folder of pairs in several Parquet files with a manifest: what a cluster writes and the trainer takes in as one."""

import json
from collections.abc import Mapping
from pathlib import Path

from shared.errors import Fatal, first_line

MANIFEST = "manifest.json"
"""Written last: a folder without it is not finished."""


def shard_files(folder: Path) -> Mapping[Path, int]:
    """The files in their order, and how many pairs each holds. Raises `Fatal` for a folder that is not whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = {folder / shard["file"]: int(shard["pairs"]) for shard in manifest["shards"]}
    except FileNotFoundError:
        advice = "the same `generate --cluster` goes on"
        raise Fatal(f"{folder}: holds no {MANIFEST}: it isn't finished, {advice}; or name a file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Fatal(f"{folder / MANIFEST}: is not a manifest of pairs: {first_line(error)}") from None
    for file in files:
        if not file.is_file():
            raise Fatal(f"{file} is missing: {folder / MANIFEST} names it")
    return files
