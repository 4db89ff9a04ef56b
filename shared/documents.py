"""The document, cut into passages: one shape from the file that it was read from, through Redis, to the dataset."""

import hashlib
import unicodedata
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from shared.pairs import check_sentence

MAX_DOCUMENT_CHARS = 5_000_000
"""Of a document's text; a novel has half a million. Passages are bounded as sentences of pairs are."""
Name = Annotated[str, StringConstraints(max_length=500), AfterValidator(check_sentence)]


class Passage(BaseModel, frozen=True, extra="forbid"):
    """A part of a document that can be embedded, searched and asked about."""

    title: str = ""
    """The document's title, its nearest heading or both, in one line."""
    text: str
    """One line: white space is folded."""
    start: Annotated[int, Field(ge=0)]
    """Where it is in the document's text, in characters; `end` is behind the last one."""
    end: int

    @model_validator(mode="after")
    def _is_a_sentence(self) -> Self:
        if not self.text.strip():
            raise ValueError("the text must not be blank")
        if self.end <= self.start:
            raise ValueError("end must be greater than start")
        check_sentence(self.content)
        return self

    @property
    def content(self) -> str:
        """What is embedded, searched and trained on: a valid sentence of a pair."""
        return passage_content(self.title, self.text)

    @property
    def content_hash(self) -> str:
        """64 hex digits (SHA-256) of the content, in NFC."""
        return content_hash(self.content)


class Document(BaseModel, frozen=True, extra="forbid"):
    """A document, cut. A later one of the same id takes its place."""

    id: Name
    """The user's own, or the text's content hash."""
    title: str = ""
    url: str = ""
    source: str = ""
    """The file that it came from, or nothing."""
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Content hash of its whole text."""
    passages: Annotated[list[Passage], Field(min_length=1)]

    @property
    def digest(self) -> str:
        """64 hex digits of all that is in it, the cut too: two documents of one digest are the same."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def passage_content(title: str, text: str) -> str:
    """A passage in one line, by BEIR's convention."""
    return f"{title} {text}" if title else text


def content_hash(text: str) -> str:
    """64 hex digits (SHA-256) of a text, in NFC."""
    return hashlib.sha256(unicodedata.normalize("NFC", text).encode()).hexdigest()
