"""The pair: two sentences and how similar they are. One shape from HTTP through Redis to the training set."""

import hashlib
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

MAX_SENTENCE_CHARS = 2000


def check_sentence(text: str) -> str:
    """`text` as it is, if it can be a sentence of a pair: one line, something to read, encodable as UTF-8."""
    if not text.strip():
        raise ValueError("must not be blank")
    if len(text) > MAX_SENTENCE_CHARS:
        raise ValueError(f"must have at most {MAX_SENTENCE_CHARS} characters, has {len(text)}")
    for character in "" if text.isprintable() else text:  # nearly all are, and so it takes a sixth of the time
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise ValueError(f"must be one line of text without control characters, has U+{ord(character):04X}")
    return text


Sentence = Annotated[str, AfterValidator(check_sentence)]
Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Pair(BaseModel, frozen=True, extra="forbid"):
    """Two sentences and their similarity: 0 (different topics) to 1 (same meaning)."""

    sentence1: Sentence
    sentence2: Sentence
    score: Score

    @property
    def content_hash(self) -> str:
        """64 hex digits (SHA-256) of the two sentences, in either order.

        The score is left out so that one pair can't enter a dataset under two labels.
        """
        sentences = sorted(unicodedata.normalize("NFC", text) for text in (self.sentence1, self.sentence2))
        return hashlib.sha256("\x1f".join(sentences).encode()).hexdigest()


class Provenance(BaseModel, frozen=True, extra="ignore"):
    """Where a pair came from. Kept beside the pair, never trained on."""

    dataset: str
    task: str
    label: str
    job: str
    teacher: str
    seed: int


class PairRecord(BaseModel, frozen=True, extra="forbid"):
    """A pair with its provenance: what the stream carries and the dataset keeps."""

    pair: Pair
    provenance: Provenance
