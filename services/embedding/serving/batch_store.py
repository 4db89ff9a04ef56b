"""Files of texts that are embedded in the background, on disk. The files alone say how far each is.

    <root>/<id>/batch.json    what is asked for, and how it ended; its existence makes the batch
    <root>/<id>/lines.jsonl   a line of the file each: its id, its texts
    <root>/<id>/vectors       a record for each text, in their order; its size says how many are done
    <root>/<id>/lock          held by the process that computes it
    <root>/.upload-*          being received, or left over from a killed process

A record is written whole or, after a crash, cut off: so no text is lost, and none is computed into two records.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from services.embedding.serving.service import EmbedRequest, InputType
from shared.model_store import fsync

ID = re.compile(r"^batch-[0-9a-f]{16}$")
LEFT_OVER_S = 3600.0
"""An upload that wasn't touched for so long is of a process that is gone."""
MOST_BATCHES = 1000
Records = npt.NDArray[np.void]
"""For each text `vector`, float32 [dimensions], and `tokens`, int32: those read, negative where it was cut."""


class Batch(BaseModel):
    """One file of texts, and how far it is."""

    id: str
    state: Literal["open", "done", "failed"] = "open"
    error: str | None = None
    form: Literal["lines", "openai"]
    version: str
    prompt_name: str | None = None
    input_type: InputType | None = None
    dimensions: int
    int8_range: float = 1.0  # what int8 covers of its vectors
    base64: bool = False  # OpenAI's `encoding_format`
    lines: int
    texts: int
    done: int = 0  # texts
    bytes: int = 0  # of disk, once it is done
    created: datetime
    finished: datetime | None = None

    @property
    def request(self) -> EmbedRequest:
        """How texts are read, without any."""
        return EmbedRequest(
            [], (self.version,), prompt_name=self.prompt_name, input_type=self.input_type, dimensions=self.dimensions
        )

    @property
    def record(self) -> np.dtype[np.void]:
        """The type of `Records`."""
        return np.dtype([("vector", "<f4", (self.dimensions,)), ("tokens", "<i4")])


class NoBatch(Exception):
    """There is no batch of this id."""


class NoRoom(Exception):
    """Batches take all the disk that they may. The message says what to do."""


class BatchStore:
    """All batches under `root`. Any number of processes may use one store; all methods block on the disk."""

    def __init__(self, root: Path, max_bytes: int, keep_s: float) -> None:
        self.root, self._max_bytes, self._keep_s = root, max_bytes, keep_s

    @contextlib.contextmanager
    def upload(self) -> Iterator[Path]:
        """An empty folder for the lines of a new batch; removed afterwards if it was not submitted."""
        folder = self.root / f".upload-{secrets.token_hex(8)}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def check_room(self, size: int = 0) -> None:
        """Raises `NoRoom` when `size` bytes more, beside what uploads have written, would be too much."""
        batches = self.all()
        used = sum(batch.bytes for batch in batches)
        used += sum(_size(folder) for folder in self.root.glob(".upload-*"))
        if used + size > self._max_bytes or len(batches) >= MOST_BATCHES:
            most = f"{self._max_bytes >> 20} MiB or {MOST_BATCHES} batches"
            detail = f"Batches may take {most} together; this one would be too much. Delete those that are done."
            raise NoRoom(detail)
        if size > shutil.disk_usage(self.root).free:
            raise NoRoom("The disk is too full for this batch's vectors.")

    def submit(self, folder: Path, batch: Batch) -> Batch:
        """Make an uploaded folder with its `lines.jsonl` a batch. Raises `NoRoom`."""
        vectors = batch.texts * batch.record.itemsize
        self.check_room(vectors)
        batch.bytes = vectors + (folder / "lines.jsonl").stat().st_size
        for name in ("vectors", "lock"):
            (folder / name).touch()
        fsync(folder / "lines.jsonl")
        self._write(folder, batch)
        folder.rename(self.root / batch.id)
        fsync(self.root)
        return batch

    def get(self, id_: str) -> Batch:
        """A batch and how far it is. Raises `NoBatch`."""
        if not ID.match(id_):
            raise NoBatch(id_)
        folder = self.root / id_
        try:
            batch = Batch.model_validate_json((folder / "batch.json").read_bytes())
            batch.done = (folder / "vectors").stat().st_size // batch.record.itemsize
        except (FileNotFoundError, ValidationError):
            raise NoBatch(id_) from None
        return batch

    def all(self) -> list[Batch]:
        """Every batch, oldest first."""
        found = list[Batch]()
        for folder in self.root.glob("batch-*"):
            with contextlib.suppress(NoBatch):
                found.append(self.get(folder.name))
        return sorted(found, key=lambda batch: batch.created)

    def delete(self, id_: str) -> Batch:
        """Remove a batch, whatever its state; who computes it stops. Raises `NoBatch`."""
        batch = self.get(id_)
        gone = self.root / f".upload-{id_}"
        try:
            (self.root / id_).rename(gone)  # whole or not at all, for those who look for it
        except FileNotFoundError:
            raise NoBatch(id_) from None
        shutil.rmtree(gone, ignore_errors=True)
        return batch

    def tidy(self) -> None:
        """Remove what is done for long, and what killed processes left over."""
        now = time.time()
        for batch in self.all():
            if batch.finished is not None and now - batch.finished.timestamp() > self._keep_s:
                with contextlib.suppress(NoBatch):
                    self.delete(batch.id)
        for folder in self.root.glob(".upload-*"):
            with contextlib.suppress(FileNotFoundError):
                newest = max(path.stat().st_mtime for path in [folder, *folder.iterdir()])
                if now - newest > LEFT_OVER_S:
                    shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def claim(self, batch: Batch) -> Iterator[bool]:
        """Whether this process alone may compute the batch, until the block ends or the process does."""
        try:
            lock = (self.root / batch.id / "lock").open("w")
        except FileNotFoundError:
            yield False
            return
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def resume(self, batch: Batch) -> int:
        """Cut off a record that a crash left unfinished; how many are done. Raises `NoBatch`."""
        done = self.get(batch.id).done
        os.truncate(self.root / batch.id / "vectors", done * batch.record.itemsize)
        return done

    def append(self, batch: Batch, records: Records) -> None:
        """Add the next records, durably. Raises `NoBatch` for a batch that was deleted, and OSError."""
        if not (self.root / batch.id).is_dir():
            raise NoBatch(batch.id)
        with (self.root / batch.id / "vectors").open("ab") as file:
            file.write(records.tobytes())
            file.flush()
            os.fdatasync(file.fileno())

    def finish(self, batch: Batch, error: str | None = None) -> None:
        """It is done, or failed."""
        batch.state, batch.error, batch.finished = "failed" if error else "done", error, datetime.now(UTC)
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            self._write(self.root / batch.id, batch)

    def lines(self, batch: Batch) -> Iterator[tuple[str | None, list[str]]]:
        """Id and texts of each line."""
        with (self.root / batch.id / "lines.jsonl").open("rb") as file:
            for line in file:
                id_, texts = json.loads(line)
                yield id_, texts

    def results(self, batch: Batch) -> Iterator[tuple[str | None, Records]]:
        """Id and records of each line of a batch that is done."""
        with (self.root / batch.id / "vectors").open("rb") as file:
            for id_, texts in self.lines(batch):
                yield id_, np.frombuffer(file.read(len(texts) * batch.record.itemsize), batch.record)

    def texts(self, batch: Batch, start: int) -> Iterator[str]:
        """The texts from number `start` on."""
        return islice((text for _, texts in self.lines(batch) for text in texts), start, None)

    def _write(self, folder: Path, batch: Batch) -> None:
        """Replace `batch.json` in one step, durably."""
        temporary = folder / ".batch.json.tmp"
        temporary.write_text(batch.model_dump_json(exclude={"done"}))
        fsync(temporary)
        temporary.replace(folder / "batch.json")
        fsync(folder)


def new_batch(lines: int, texts: int, **fields: Any) -> Batch:
    """A batch that isn't submitted yet."""
    return Batch(id=f"batch-{secrets.token_hex(8)}", lines=lines, texts=texts, created=datetime.now(UTC), **fields)


def _size(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0
