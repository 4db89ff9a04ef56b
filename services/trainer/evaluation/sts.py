"""How well a student's similarities rank pairs: Spearman's correlation x 100, on collected pairs or on STS files."""

import csv
import gzip
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from shared.errors import Fatal

HEADER = ["score", "sentence1", "sentence2", "subset"]
SUFFIX = ".tsv.gz"
SAME = 1e-6  # cosines closer than this differ by rounding only

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
Row = tuple[str, str, float]
"""sentence1, sentence2, gold score on any scale."""


class Undefined(Exception):
    """There is no correlation: fewer than two pairs, or one side has a single value."""


def similarities(encode: Encode, rows: Sequence[Row]) -> npt.NDArray[np.float64]:
    """The cosine of each row's two sentences, [rows]. Raises `Undefined` where a vector is not finite."""
    # Each sentence is encoded once: many rows share one.
    texts = sorted({text for one, other, _ in rows for text in (one, other)})
    place = {text: index for index, text in enumerate(texts)}
    vectors = unit(encode(texts))
    left, right = vectors[[place[one] for one, _, _ in rows]], vectors[[place[other] for _, other, _ in rows]]
    cosines = np.asarray(np.einsum("ij,ij->i", left, right), np.float64)
    if not np.isfinite(cosines).all():
        raise Undefined("the student's vectors are not finite")
    return cosines


def correlation(gold: Sequence[float], cosines: npt.NDArray[np.float64]) -> float:
    """Spearman x 100 over all rows at once. Raises `Undefined`."""
    if len(set(gold)) < 2:
        raise Undefined("all pairs have one score" if gold else "there are no pairs")
    if np.ptp(cosines) < SAME:
        raise Undefined("the student finds all pairs equally similar")
    return 100 * float(spearmanr(gold, cosines).statistic)


def score(encode: Encode, rows: Sequence[Row]) -> float:
    """Spearman x 100 of the cosine similarities with the gold scores. Raises `Undefined`."""
    if not rows:
        raise Undefined("there are no pairs")
    return correlation([gold for _, _, gold in rows], similarities(encode, rows))


@dataclass(frozen=True)
class StsFile:
    """One human-scored set."""

    rows: list[Row]
    subsets: list[str]
    """The subset that each row comes from."""


def sts_files(folder: Path, setting: str = "--sts") -> dict[str, StsFile]:
    """Every STS file of a folder by its name without `.tsv.gz`. Raises `Fatal`."""
    if not folder.is_dir():
        raise Fatal(f"{setting}: there is no folder {str(folder)!r}")
    files = ((file.name.removesuffix(SUFFIX), _read(file)) for file in sorted(folder.glob(f"*{SUFFIX}")))
    sets = {name: rows for name, rows in files if rows is not None}
    if not sets:
        raise Fatal(f"{setting}: {folder} has no *{SUFFIX} file that begins with the line {' '.join(HEADER)!r}")
    return sets


def _read(file: Path) -> StsFile | None:
    """An STS file; None when its first line is another. Raises `Fatal` that names a bad line."""
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="\n") as text:
            lines = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
            if next(lines, None) != HEADER:
                return None
            read = [(_row(file, number, fields), fields[3]) for number, fields in enumerate(lines, start=2)]
            return StsFile([row for row, _ in read], [subset for _, subset in read])
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise Fatal(f"{file}: can't be read: {error}") from None


def _row(file: Path, number: int, fields: list[str]) -> Row:
    if len(fields) != len(HEADER):
        raise Fatal(f"{file}, line {number}: has {len(fields)} fields instead of {len(HEADER)}")
    try:
        gold = float(fields[0])
    except ValueError:
        gold = math.nan
    if not math.isfinite(gold):
        raise Fatal(f"{file}, line {number}: the score {fields[0]!r} is not a number")
    return fields[1], fields[2], gold


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of length 1; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths))
