"""How the current version sees the dataset's newest pairs, for a person who looks for those that surprise it."""

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.trainer.dataset.store import Dataset, open_dataset
from shared.errors import Fatal, first_line

log = logging.getLogger(__name__)

MOST_PAIRS, PORTION = 100_000, 2_000
MOST_S = 20.0
"""After so many seconds the pairs that are left go without: a transformer on two cores does not get through all."""

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]


def keep_cosines(dataset: Dataset, folder: Path, version: str, encode: Encode, most_s: float = MOST_S) -> int:
    """Write the cosines of the newest pairs by `encode` into the dataset in `folder`; how many. `dataset` only reads.

    A dataset that can't be written is no reason for a round to fail.
    """
    began, found = time.monotonic(), list[tuple[int, float]]()
    pairs = dataset.newest_pairs(MOST_PAIRS)
    while time.monotonic() - began < most_s and (portion := list(islice(pairs, PORTION))):
        texts = list(dict.fromkeys(text for _, *both in portion for text in both))
        place = {text: index for index, text in enumerate(texts)}
        vectors = encode(texts)
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        first, second = [place[one] for _, one, _ in portion], [place[other] for _, _, other in portion]
        cosines = np.clip(np.einsum("ij,ij->i", vectors[first], vectors[second]), -1, 1)
        found += zip((id_ for id_, *_ in portion), cosines.tolist(), strict=True)
    try:
        with open_dataset(folder) as writable:
            kept = writable.set_cosines(version, found)
    except (OSError, sqlite3.Error, Fatal) as error:
        log.warning("the cosines of %d pairs are not kept: %s", len(found), first_line(error))
        return 0
    log.info("%d pairs have cosines by %s, after %.1f s", kept, version, time.monotonic() - began)
    return kept
