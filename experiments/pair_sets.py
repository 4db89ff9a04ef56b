"""Pair sets: reading, taking a part of them, and keeping the measuring side apart.

The sets of 2026-11-26 are in the repository, in one compressed file; any other set is a file of its own.
"""

import hashlib
import json
import lzma
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

from services.trainer.dataset.store import StoredPair
from services.trainer.evaluation.sts import Row, StsFile, sts_files
from shared.errors import Fatal
from shared.pairs import Pair

ARCHIVE = Path(__file__).with_name("results") / "2026-11-26-pairs.jsonl.xz"
UNWANTED = re.compile(
    r"\b(sex\w*|porn\w*|nud(e|es|ity)|naked|rap(e|es|ed|ist|ists)|breasts?|penis|vagina|erotic\w*|orgasm\w*|"
    r"prostitut\w*|nazis?|hitler|holocaust|jew(s|ish)?|muslims?|islam\w*|christian\w*|catholic\w*|hindu\w*|jesus|"
    r"allah|quran|koran|bible|gays?|lesbians?|homosexual\w*|transgender\w*|negro\w*|blacks|whites|arabs?|gyps(y|ies)|"
    r"immigrants?|terrorists?|suicid\w*|kill (my|him|her|your)\w*|slaves?|slavery|racis\w*|genocide)\b",
    re.IGNORECASE,
)
"""What a teacher of 135M parameters had better not be quoted on. Coarse: it knows words, not meanings."""


def read(folder: Path, name: str) -> list[Row]:
    """A set's pairs, each once: from its file in `folder`, or else from the archive. Raises `Fatal`."""
    file = folder / f"{name}.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else _archived(ARCHIVE)[name]
        return list(dict.fromkeys(_row(json.loads(line)) for line in lines if line))
    except (OSError, ValueError, KeyError) as error:
        raise Fatal(f"pair set {name!r}: {error!r}; write it with `python -m experiments generate`") from None


def archived_sets() -> list[str]:
    """The names of the sets in the archive."""
    return list(_archived(ARCHIVE))


def pack(folder: Path, names: Iterable[str], apart_from: Iterable[str], target: Path) -> int:
    """Write an archive of sets, without the sentences of the sets `apart_from` and `UNWANTED` ones; how many pairs."""
    evaluation = [row for name in apart_from for row in read(folder, name)]
    count = 0
    with lzma.open(target, "wt", preset=9, encoding="utf-8") as file:
        for name in names:
            for one, other, score in without_sentences_of(evaluation, read(folder, name)):
                if not UNWANTED.search(one) and not UNWANTED.search(other):
                    row = {"set": name, "sentence1": one, "sentence2": other, "score": score}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
    return count


def human_sets(folder: Path | None) -> dict[str, StsFile]:
    """The human-scored sets that measure; sets made for training on are left alone. Raises `Fatal`."""
    if folder is None:
        return {}
    return {name: file for name, file in sts_files(folder).items() if not name.endswith(".train")}


def digest(rows: Iterable[Row]) -> str:
    """Identifies a set's content."""
    hash_ = hashlib.sha256()
    for row in rows:
        hash_.update(repr(row).encode())
    return hash_.hexdigest()[:16]


def sample(rows: Sequence[Row], most: int | None) -> list[Row]:
    """At most so many rows, but whole groups of a sentence1, in the order of its hash; None takes all as they are."""
    if most is None:
        return list(rows)
    groups = groupby(sorted(rows, key=lambda row: _hash(row[0])), key=lambda row: row[0])
    sampled: list[Row] = []
    for _, group in groups:
        if len(sampled) >= most:
            break
        sampled += group
    return sampled


def shuffle_scores(rows: Sequence[Row], seed: int) -> list[Row]:
    """The same texts with each sentence1's scores dealt out anew: what a student learns from them is not meaning."""
    generator = random.Random(seed)
    shuffled: list[Row] = []
    for _, group in groupby(sorted(rows), key=lambda row: row[0]):
        own = list(group)
        scores = [score for _, _, score in own]
        generator.shuffle(scores)
        shuffled += [(one, other, score) for (one, other, _), score in zip(own, scores, strict=True)]
    return shuffled


def without_sentences_of(others: Iterable[Row], rows: Iterable[Row]) -> list[Row]:
    """The rows that share no sentence with `others`."""
    sentences = {text for one, other, _ in others for text in (one, other)}
    return [row for row in rows if row[0] not in sentences and row[1] not in sentences]


def stored(rows: Sequence[Row]) -> list[StoredPair]:
    """As the trainer's dataset hands them out: by sentence1, unique by content hash."""
    unique: dict[bytes, Row] = {}
    for row in rows:
        unique.setdefault(bytes.fromhex(Pair(sentence1=row[0], sentence2=row[1], score=row[2]).content_hash), row)
    ordered = sorted(unique.items(), key=lambda item: item[1][:2])
    return [StoredPair(number, hash_, *row) for number, (hash_, row) in enumerate(ordered, 1)]


@cache
def _archived(file: Path) -> Mapping[str, list[str]]:
    sets: dict[str, list[str]] = {}
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            sets.setdefault(json.loads(line)["set"], []).append(line)
    return sets


def _row(pair: Mapping[str, str | float]) -> Row:
    return str(pair["sentence1"]), str(pair["sentence2"]), float(pair["score"])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
