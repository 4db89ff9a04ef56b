"""The teacher's views of a dataset's sentences: each is looked at once, and kept beside the dataset.

A view costs a pass of the teacher over the sentence and its prompt. What is kept is a cache: a damaged or foreign file
is made anew.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from services.trainer.dataset.arrow import portions

log = logging.getLogger(__name__)

Embeddings = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Embeddings]

AT_ONCE, SHARE = 256, 0.1
"""Looked at between two writes of the file, and what a death in the middle costs: so many, or this share of what is
known, if that is more: the file is written whole."""


def sample_texts(rows: Path, most: int) -> list[str]:
    """At most so many of the texts in a file of training rows, by a hash: later rounds choose nearly the same."""
    found: dict[bytes, str] = {}
    for portion in portions(rows):
        for row in portion:
            found.update((_digest(text), text) for text in row if isinstance(text, str))
        if len(found) > 4 * most:
            found = {key: found[key] for key in sorted(found)[:most]}
    return [found[key] for key in sorted(found)[:most]]


def encode_cached(
    texts: Sequence[str], file: Path, load: Callable[[], Encode], say: Callable[[int], None]
) -> Embeddings:
    """The views of `texts`, [texts, hidden], from `file` as far as they are there, and then all of them are.

    `load` loads the teacher, if it is needed at all; `say` hears how many texts are done. Raises what loading
    raises, and OSError.
    """
    known = _read(file)
    missing = [text for text in dict.fromkeys(texts) if _digest(text) not in known]
    say(len(texts) - len(missing))
    if missing:
        shown, written = load(), len(known)
        for first in range(0, len(missing), AT_ONCE):
            some = missing[first : first + AT_ONCE]
            known.update(zip(map(_digest, some), shown(some).astype(np.float16), strict=True))
            say(len(texts) - len(missing) + first + len(some))
            if len(known) - written >= SHARE * written:
                _write(file, known)
                written = len(known)
        if written < len(known):
            _write(file, known)
    return np.stack([known[_digest(text)] for text in texts]).astype(np.float32)


def _read(file: Path) -> dict[bytes, npt.NDArray[np.float16]]:
    if not file.is_file():
        return {}
    try:
        with np.load(file, allow_pickle=False) as kept:
            return dict(zip((bytes(key) for key in kept["keys"]), kept["views"], strict=True))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        log.warning("the views in %s are made anew: %s", file.name, error)
        return {}


def _write(file: Path, known: dict[bytes, npt.NDArray[np.float16]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    keys = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1)
    with temporary.open("wb") as target:
        np.savez(target, keys=keys, views=np.stack(list(known.values())))
    temporary.rename(file)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
