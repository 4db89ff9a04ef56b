"""The versions of one student: the trainer publishes, the embedding service reads. The file system is the truth.

    <root>/versions/<id>/       immutable: sentence-transformers' own format and `manifest.json`, which is written last
    <root>/current, previous    one line, a version's id; replaced atomically
    <root>/.staging-*           being written; never read, swept at the next publication

Publication is fsync + rename, so a reader sees a whole version or none, whatever is killed. A reader must still check
(`verify`): sentence-transformers loads a damaged folder without an error and gives wrong vectors.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

VERSION_ID = re.compile(r"^r\d{6}-[0-9a-f]{8}$")
MANIFEST = "manifest.json"
# Formats that can carry code are never part of a version.
FORBIDDEN_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".py"})
PROBE_SENTENCES = (
    "A man is playing a guitar.",
    "The stock market fell sharply on Monday.",
    "Zürich's café opens at 7 a.m.; it's 3 km away!",
    "no",
)
PROBE_TOLERANCE = 1e-3


class BrokenVersion(Exception):
    """A version on disk is not what its manifest says. The message names the file or the value."""


class NoVersion(Exception):
    """There is no such version, or none at all yet."""


class FileEntry(BaseModel):
    """One file of a version."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size: int


class Card(BaseModel):
    """What the trainer says of a version when it publishes it."""

    model_config = ConfigDict(frozen=True)

    base: str
    """The model the student was trained from: a hub id, a path or `default`."""
    parent: str | None = None
    """The version that was current before."""
    round: int = Field(ge=0)
    """0 for the untrained base, which is published first so that `/embed` answers from the start."""
    pairs: int = Field(ge=0)
    dataset: str = "default"
    dataset_hash: str | None = None
    dimensions: int = Field(gt=0)
    max_seq_length: int | None = None
    scores: dict[str, float] = {}
    """Metric to value, Spearman x 100; `dev_before` and `dev_after` are on the synthetic dev split."""
    recipe: dict[str, Any] = {}
    code_version: str = "unknown"


class Manifest(Card):
    """A published version: its card, its files and how it must answer the probe."""

    id: str = Field(pattern=VERSION_ID.pattern)
    created: datetime
    files: dict[str, FileEntry]
    probe: list[list[float]]
    """The vectors of `PROBE_SENTENCES`, [4, dimensions], not normalised by us."""


class ModelStore:
    """All versions of one dataset's student under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._versions = root / "versions"

    # ---- writing: the trainer

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder on the store's file system for `publish`; removed afterwards if it was not published."""
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(".staging-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, card: Card, probe: list[list[float]]) -> Manifest:
        """Make the staged folder an immutable version and point `current` at it.

        Raises OSError when the disk refuses; then `current` still names the version before.
        """
        files = {str(path.relative_to(staged)): _entry(path) for path in _files(staged)}
        digest = hashlib.sha256(repr((sorted(files.items()), card)).encode()).hexdigest()[:8]
        manifest = Manifest(
            **card.model_dump(),
            id=f"r{card.round:06d}-{digest}",
            created=datetime.now(UTC),
            files=files,
            probe=probe,
        )
        (staged / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        for path in [*_files(staged), staged / MANIFEST]:
            path.chmod(0o444)
            _fsync(path)
        for folder in sorted({path.parent for path in _files(staged)} | {staged}):
            _fsync(folder)
        self._versions.mkdir(parents=True, exist_ok=True)
        target = self._versions / manifest.id
        if not target.exists():  # the same round published again after a crash: the folder is already right
            staged.chmod(0o755)
            staged.rename(target)
            _fsync(self._versions)
        self.activate(manifest.id)
        return manifest

    def activate(self, version: str) -> None:
        """Point `current` at a version, given as to `resolve` (publication, promotion and rollback are this one step).

        Raises `NoVersion` or `BrokenVersion`.
        """
        version = self.resolve(version)
        self.manifest(version)
        before = self.current()
        if before == version:
            return
        if before is not None:
            self._point("previous", before)
        self._point("current", version)

    # ---- reading: everyone

    def current(self) -> str | None:
        """The id of the version to serve; None before the first publication."""
        return self._read_pointer("current")

    def previous(self) -> str | None:
        """The id that was current before."""
        return self._read_pointer("previous")

    def versions(self) -> list[Manifest]:
        """Every published version, oldest round first. Folders without a readable manifest are left out."""
        found = []
        for folder in sorted(self._versions.glob("r*")) if self._versions.is_dir() else []:
            with contextlib.suppress(NoVersion, BrokenVersion):
                found.append(self.manifest(folder.name))
        return sorted(found, key=lambda manifest: (manifest.round, manifest.created))

    def resolve(self, name: str) -> str:
        """`current`, `previous` or an id, as an id that exists. Raises `NoVersion`."""
        version = {"current": self.current, "previous": self.previous}.get(name, lambda: name)()
        if version is None or not VERSION_ID.match(version) or not (self._versions / version).is_dir():
            known = ", ".join(manifest.id for manifest in self.versions()) or "none yet"
            raise NoVersion(f"there is no version {name!r}; published: {known}")
        return version

    def path(self, version: str) -> Path:
        """The folder of a version id. Raises `NoVersion`."""
        return self._versions / self.resolve(version)

    def manifest(self, version: str) -> Manifest:
        """A version's manifest. Raises `NoVersion` or `BrokenVersion`."""
        file = self.path(version) / MANIFEST
        try:
            return Manifest.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise BrokenVersion(f"{file}: {type(error).__name__}") from error

    def verify(self, version: str) -> Manifest:
        """Check every file of a version against its manifest. Raises `NoVersion` or `BrokenVersion`.

        Run it before loading, then compare the loaded model's vectors of `PROBE_SENTENCES` with `manifest.probe`.
        """
        folder, manifest = self.path(version), self.manifest(version)
        found = {str(path.relative_to(folder)): path for path in _files(folder)}
        for name in manifest.files.keys() | found.keys():
            if name not in found:
                raise BrokenVersion(f"{version}: {name} is missing")
            if name not in manifest.files:
                raise BrokenVersion(f"{version}: {name} is not in the manifest")
            if _entry(found[name]) != manifest.files[name]:
                raise BrokenVersion(f"{version}: {name} was changed after publication")
        return manifest

    def _read_pointer(self, name: str) -> str | None:
        try:
            version = (self.root / name).read_text().strip()
        except FileNotFoundError:
            return None
        return version if VERSION_ID.match(version) else None

    def _point(self, name: str, version: str) -> None:
        """Replace a pointer file in one step, durably."""
        temporary = self.root / f".{name}.tmp"
        temporary.write_text(version + "\n")
        _fsync(temporary)
        temporary.replace(self.root / name)
        _fsync(self.root)


def _files(folder: Path) -> list[Path]:
    """Every file of a version but its manifest. Raises `BrokenVersion` for what a version must not hold."""
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or path.suffix in FORBIDDEN_SUFFIXES:
            raise BrokenVersion(f"{path.relative_to(folder)}: links, pickles and code don't belong in a version")
        if path.is_file() and path != folder / MANIFEST:
            files.append(path)
    return files


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
