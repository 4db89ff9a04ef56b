"""The teacher embeddings of a dataset's sentences: each is computed once, and kept in a file beside the dataset."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from services.trainer.dataset.arrow import portions
from services.trainer.evaluation.sts import Encode
from services.trainer.models.static import Embeddings

log = logging.getLogger(__name__)

Cached = dict[bytes, npt.NDArray[np.float16]]  # by the text's digest

Find = Callable[[Sequence[str]], Mapping[str, npt.NDArray[np.float16]]]
"""Those of some texts that were embedded elsewhere."""

CHUNK, SHARE = 256, 0.1
"""Texts between two writes of the file, or this share of what is in it if that is more: the file is written whole."""


def cache_file(folder: Path, teacher: str) -> Path:
    """A dataset folder's file for the teacher of this identity; a file under the old name is renamed."""
    file = folder / f"embeddings-{teacher}.npz"
    old = folder / f"views-{teacher}.npz"  # retired: remove in 0.3
    if old.is_file() and not file.exists():
        old.rename(file)
    return file


def sample_texts(rows: Path, most: int) -> list[str]:
    """At most so many of the texts in a file of training rows, by a hash: later rounds choose nearly the same."""
    sample: dict[bytes, str] = {}
    for portion in portions(rows):
        for row in portion:
            sample.update((_digest(text), text) for text in row if isinstance(text, str))
        if len(sample) > 4 * most:
            sample = {key: sample[key] for key in sorted(sample)[:most]}
    return [sample[key] for key in sorted(sample)[:most]]


def column(rows: Path, number: int) -> Iterator[str]:
    """A column of a file of training rows."""
    return (row[number] for portion in portions(rows) for row in portion)


def encode_cached(
    texts: Sequence[str],
    file: Path,
    load: Callable[[], Encode],
    on_progress: Callable[[int], None],
    find: Find = lambda _: {},
) -> Embeddings:
    """The teacher embeddings of `texts`, [texts, hidden], from `file` as far as it has them; then it has all of them.

    What is missing is taken from where `find` finds it, and else computed. `load` loads the teacher, if needed;
    `on_progress` gets how many are done. Raises what these do, and OSError.
    """
    cached = _read(file)
    missing = [text for text in dict.fromkeys(texts) if _digest(text) not in cached]
    if found := find(missing) if missing else {}:
        cached.update((_digest(text), vector) for text, vector in found.items())
        _write(file, cached)
        missing = [text for text in missing if text not in found]
    on_progress(len(texts) - len(missing))
    if missing:
        encode, written = load(), len(cached)
        for first in range(0, len(missing), CHUNK):
            chunk = missing[first : first + CHUNK]
            cached.update(zip(map(_digest, chunk), encode(chunk).astype(np.float16), strict=True))
            on_progress(len(texts) - len(missing) + first + len(chunk))
            if len(cached) - written >= SHARE * written or first + CHUNK >= len(missing):
                _write(file, cached)
                written = len(cached)
    return np.stack([cached[_digest(text)] for text in texts]).astype(np.float32)


def _read(file: Path) -> Cached:
    if not file.is_file():
        return {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            vectors = arrays["views"] if "views" in arrays else arrays["embeddings"]  # retired: remove in 0.3
            return dict(zip((bytes(key) for key in arrays["keys"]), vectors, strict=True))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        log.warning("the teacher embeddings in %s are made anew: %s", file.name, error)
        return {}


def _write(file: Path, cached: Cached) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    keys = np.frombuffer(b"".join(cached), np.uint8).reshape(len(cached), -1)
    with temporary.open("wb") as target:
        np.savez(target, keys=keys, embeddings=np.stack(list(cached.values())))
    temporary.rename(file)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
