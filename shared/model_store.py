"""The versions of one student: the trainer publishes, the embedding service reads. The file system is the truth.

    <root>/versions/<id>/       immutable: sentence-transformers' own format and `manifest.json`, which is written last
    <root>/rejected/<id>/       the same, of candidates that the gate refused; never served
    <root>/current, previous    one line, a version's id; replaced atomically
    <root>/pinned               is there while the current version stays current whatever is published
    <root>/epoch                the newest trainer's fencing token; an older trainer publishes nothing more
    <root>/.quarantine/<id>/    damaged versions
    <root>/.staging-*, .trash-* being written, being deleted; never read, swept at the next publication

Publication is fsync + rename, so a reader sees a whole version or none, whatever is killed. A reader must still check
(`verify`): sentence-transformers loads a damaged folder without an error and gives wrong vectors.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from shared.manifest import VERSION_ID, Card, FileEntry, Manifest

MANIFEST = "manifest.json"
# Formats that can carry code are never part of a version.
FORBIDDEN_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".py"})


class BrokenVersion(Exception):
    """A version on disk is not what its manifest says. The message names the file or the value."""


class NoVersion(Exception):
    """There is no such version, or none at all yet."""


class Fenced(Exception):
    """A newer trainer has taken over this store; what an older one brings is refused."""


# A version's id is a digest of what it was made of and of what came out. The report holds times, so it differs from run
# to run; the int8 copy follows from the rest.
IDENTITY = {"base", "start", "round", "pairs", "dataset", "dataset_hash", "dimensions", "recipe", "code_version"}
NOT_IN_ID = ("README.md", "report", "onnx")


class ModelStore:
    """All versions of one dataset's student under `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self._versions, self._rejected = root, root / "versions", root / "rejected"

    # ---- writing: the trainer

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder on the store's file system for `publish`; removed afterwards if it was not published."""
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in [*self.root.glob(".staging-*"), *self.root.glob(".trash-*")]:  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, card: Card, probe: list[list[float]]) -> Manifest:
        """Seal the staged folder as a version and make it `current`, unless another one is pinned.

        After OSError or `Fenced` it is not.
        """
        with self._writing(card.epoch):
            manifest = self._seal(staged, card, probe, None, self._versions)
            if self.pinned() is None:
                self._activate(manifest.id)
        return manifest

    def promote(self, version: str) -> None:
        """Make a published version `current`, unless another one is pinned. Raises as `activate` does."""
        with self._writing():
            if self.pinned() is None:
                self._activate(version)

    def reject(self, staged: Path, card: Card, probe: list[list[float]], reason: str) -> Manifest:
        """Keep the staged folder as a rejected candidate, beside the versions. Raises as `publish` does."""
        with self._writing(card.epoch):
            return self._seal(staged, card, probe, reason, self._rejected)

    def admit(self, version: str) -> Manifest:
        """Make a rejected candidate a version, whose manifest still says why. Raises `NoVersion` or `BrokenVersion`."""
        with self._writing():
            folder = self.rejected_path(version)
            _manifest(folder)
            self._versions.mkdir(exist_ok=True)
            folder.rename(self._versions / version)
            fsync(self._versions)
            fsync(self._rejected)
        return self.verify(version)

    def fence(self, epoch: int) -> None:
        """From now on, refuse what trainers with a lower epoch bring."""
        with self._writing(epoch):
            self._write_line("epoch", str(epoch))

    def epoch(self) -> int:
        """The newest trainer's epoch; 0 before any."""
        line = self._read_line("epoch")
        return int(line) if line.isdecimal() else 0

    def delete(self, version: str) -> None:
        """Remove a version or a rejected candidate. Raises `NoVersion`, or `ValueError` for the current version."""
        with self._writing():
            try:
                folder = self.rejected_path(version)
            except NoVersion:
                folder = self.path(version)
            if folder.name == self.current():
                raise ValueError(f"{folder.name} is the current version: activate another one first")
            if folder.name == self.previous():
                (self.root / "previous").unlink()
            # Renamed first: a reader finds it whole or not at all.
            shutil.rmtree(self._move(folder, f".trash-{folder.name}"), ignore_errors=True)

    def quarantine(self, version: str) -> None:
        """Take a damaged version out of the way, for a person to look at. `current` may name it still."""
        with self._writing(), contextlib.suppress(FileNotFoundError):
            self._move(self._versions / version, f".quarantine/{version}")

    def activate(self, version: str) -> None:
        """Point `current` at a version, named as in `resolve`; a pin goes along.

        Raises `NoVersion` or `BrokenVersion`.
        """
        with self._writing():
            self._activate(version)

    def pin(self, version: str) -> None:
        """`activate`, and keep it current whatever is published, until `unpin`. Raises as `activate` does."""
        with self._writing():
            self._activate(version)
            self._write_line("pinned", "yes")

    def unpin(self) -> None:
        """The next version that is published becomes current. Nothing changes until then."""
        with self._writing():
            (self.root / "pinned").unlink(missing_ok=True)
            fsync(self.root)

    def _activate(self, version: str) -> None:
        version = self.resolve(version)
        self.manifest(version)
        before = self.current()
        if before != version:
            if before is not None and (self._versions / before).is_dir():  # one that is gone is nothing to go back to
                self._write_line("previous", before)
            self._write_line("current", version)

    def _seal(self, staged: Path, card: Card, probe: list[list[float]], reason: str | None, parent: Path) -> Manifest:
        """Write the manifest, sync, and rename the staged folder to its place under `parent`."""
        files = {str(path.relative_to(staged)): _entry(path) for path in _files(staged)}
        entries = sorted(item for item in files.items() if item[0].split("/")[0] not in NOT_IN_ID)
        digest = hashlib.sha256(repr((entries, card.model_dump_json(include=IDENTITY))).encode())
        id_, now = f"r{card.round:06d}-{digest.hexdigest()[:8]}", datetime.now(UTC)
        manifest = Manifest(**card.model_dump(), id=id_, created=now, files=files, probe=probe, rejection=reason)
        (staged / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        for path in [*_files(staged), staged / MANIFEST]:
            path.chmod(0o444)
            fsync(path)
        for folder in sorted({path.parent for path in _files(staged)} | {staged}):
            fsync(folder)
        parent.mkdir(parents=True, exist_ok=True)
        target = parent / id_
        if not target.exists():  # the same round published again after a crash: the folder is already right
            staged.chmod(0o755)
            staged.rename(target)
            fsync(parent)
        return manifest

    # ---- reading: everyone

    def current(self) -> str | None:
        """The id of the version to serve; None before the first publication."""
        return self._read_pointer("current")

    def previous(self) -> str | None:
        """The id that was current before."""
        return self._read_pointer("previous")

    def pinned(self) -> str | None:
        """The id of the version that stays current; None when what is published becomes current."""
        return self.current() if (self.root / "pinned").is_file() else None

    def versions(self) -> list[Manifest]:
        """Every published version, oldest round first. Folders without a readable manifest are left out."""
        return _manifests(self._versions)

    def rejected(self) -> list[Manifest]:
        """Every candidate that the gate refused and that is still kept, oldest round first."""
        return _manifests(self._rejected)

    def rejected_path(self, version: str) -> Path:
        """The folder of a rejected candidate. Raises `NoVersion`."""
        if not VERSION_ID.match(version) or not (self._rejected / version).is_dir():
            raise NoVersion(f"there is no rejected candidate {version!r}")
        return self._rejected / version

    def resolve(self, name: str) -> str:
        """`current`, `previous` or an id, as an id that exists. Raises `NoVersion`."""
        version = self._read_pointer(name) if name in ("current", "previous") else name
        if version is None or not VERSION_ID.match(version) or not (self._versions / version).is_dir():
            published = ", ".join(manifest.id for manifest in self.versions()) or "none yet"
            raise NoVersion(f"there is no version {name!r}; published: {published}")
        return version

    def path(self, version: str) -> Path:
        """The folder of a version id. Raises `NoVersion`."""
        return self._versions / self.resolve(version)

    def any_path(self, name: str) -> Path:
        """The folder of a version, named as in `resolve`, or of a rejected candidate. Raises `NoVersion`."""
        try:
            return self.rejected_path(name)
        except NoVersion:
            return self.path(name)

    def any_manifest(self, name: str) -> Manifest:
        """The manifest of a version or of a rejected candidate. Raises `NoVersion` or `BrokenVersion`."""
        return _manifest(self.any_path(name))

    def manifest(self, version: str) -> Manifest:
        """A version's manifest. Raises `NoVersion` or `BrokenVersion`."""
        return _manifest(self.path(version))

    def verify(self, version: str) -> Manifest:
        """Check every file of a version against its manifest. Raises `NoVersion` or `BrokenVersion`.

        Run it before loading, then compare the loaded model's vectors of `PROBE_SENTENCES` with `manifest.probe`.
        """
        folder, manifest = self.path(version), self.manifest(version)
        files = {str(path.relative_to(folder)): path for path in _files(folder)}
        for name in manifest.files.keys() | files.keys():
            if name not in files:
                raise BrokenVersion(f"{version}: {name} is missing")
            if name not in manifest.files:
                raise BrokenVersion(f"{version}: {name} is not in the manifest")
            if _entry(files[name]) != manifest.files[name]:
                raise BrokenVersion(f"{version}: {name} was changed after publication")
        return manifest

    def _read_pointer(self, name: str) -> str | None:
        version = self._read_line(name)
        return version if VERSION_ID.match(version) else None

    def _read_line(self, name: str) -> str:
        try:
            return (self.root / name).read_text().strip()
        except FileNotFoundError:
            return ""

    def _write_line(self, name: str, line: str) -> None:
        """Replace a one-line file in one step, durably."""
        temporary = self.root / f".{name}.tmp"
        temporary.write_text(line + "\n")
        fsync(temporary)
        temporary.replace(self.root / name)
        fsync(self.root)

    @contextlib.contextmanager
    def _writing(self, epoch: int | None = None) -> Iterator[None]:
        """Alone among the writers; with an epoch, only while no trainer with a higher one has been here."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if epoch is not None and epoch < (newest := self.epoch()):
                raise Fenced(f"a newer trainer has taken over (epoch {newest}, ours is {epoch})")
            yield

    def _move(self, folder: Path, name: str) -> Path:
        """Rename a version's folder out of every reader's sight."""
        target = self.root / name
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
        fsync(folder.parent)
        return target


def _manifests(parent: Path) -> list[Manifest]:
    manifests = []
    for folder in sorted(parent.glob("r*")):
        with contextlib.suppress(BrokenVersion):
            manifests.append(_manifest(folder))
    return sorted(manifests, key=lambda manifest: (manifest.round, manifest.created))


def _manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise BrokenVersion(f"{file}: {type(error).__name__}") from error


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


def fsync(path: Path) -> None:
    """Have what was written to a file, or renamed in a folder, on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
