"""Documents into passages: at headings, then at paragraphs and sentences, to a size in the teacher's tokens.

The splitter counts characters, and what is too long in tokens is cut again: counting tokens inside of the splitter
takes each text through the tokenizer ten times (measured: 0.1 MB/s against 0.5).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from services.generation.documents.texts import MAX_TITLE_CHARS, Text, one_line
from shared.documents import Document, Passage, content_hash, passage_content
from shared.pairs import MAX_SENTENCE_CHARS

SAMPLE_CHARS = 4000
"""Of a document: how many characters a token has in it."""
MARGIN = 0.9
"""How much of the size is aimed at: a little less, and few passages have to be cut again."""
SHORTEST_CHARS, BLOCK_CHARS = 20, 100_000


class Cut(NamedTuple):
    """A document's passages, and the tokens of each one's content."""

    document: Document
    tokens: list[int]


@dataclass(frozen=True)
class _Section:
    """A part of a text under one heading: from `start` on."""

    title: str
    start: int
    text: str


@dataclass(frozen=True)
class _Piece:
    title: str
    start: int
    end: int
    text: str
    tokens: int = 0

    @property
    def content(self) -> str:
        return passage_content(self.title, self.text)


class Cutter:
    """Cuts to `size` tokens at most, the title's among them; neighbours may share up to `overlap` tokens."""

    def __init__(self, tokenizer: Any, size: int = 256, overlap: int = 0) -> None:
        """`tokenizer` is one of the package `tokenizers`."""
        self._tokenizer, self.size, self.overlap = tokenizer, size, overlap

    def cut(self, text: Text) -> Cut | None:
        """The document with its passages; None if nothing in it can be read. The same text is cut in the same way."""
        title, sections = (one_line(text.title), [_Section("", 0, text.text)])
        if text.is_markdown:
            title, sections = _sections(title, text.text)
        pieces = [piece for section in sections for piece in self._pieces(section, title, text.is_markdown)]
        if not pieces:
            return None
        passages = [Passage(title=one.title, text=one.text, start=one.start, end=one.end) for one in pieces]
        hash_ = content_hash(text.text)
        whole = Document(
            id=text.id or hash_, title=title, url=text.url, source=text.source, hash=hash_, passages=passages
        )
        return Cut(whole, [one.tokens for one in pieces])

    def _pieces(self, section: _Section, document_title: str, is_markdown: bool) -> Iterator[_Piece]:
        title = _joined(document_title, section.title)
        [title_tokens] = self._count([title])
        if title_tokens > self.size // 2:
            title, title_tokens = "", 0
        whole = _piece(title, section.start, section.text)
        if whole is None:
            return
        if len(whole.content) <= MAX_SENTENCE_CHARS and (tokens := self._count([whole.content])[0]) <= self.size:
            yield replace(whole, tokens=tokens)
            return
        sample = section.text[:SAMPLE_CHARS]
        characters = len(sample) / max(1, self._count([sample])[0])
        room = int((self.size - title_tokens) * characters * MARGIN)
        for start, block in _blocks(section.text):
            yield from self._split(title, section.start + start, block, room, characters, is_markdown)

    def _split(
        self, title: str, start: int, text: str, room: int, characters: float, is_markdown: bool
    ) -> Iterator[_Piece]:
        """Cut to about `room` characters, and what is still too long in tokens to fewer."""
        room = max(SHORTEST_CHARS, min(room, MAX_SENTENCE_CHARS - len(title) - 1))
        overlap = min(int(self.overlap * characters), room // 2)
        splitter = (MarkdownSplitter if is_markdown else TextSplitter)(room, overlap=overlap)
        found = [_piece(title, start + offset, chunk) for offset, chunk in splitter.chunk_indices(text)]
        pieces = [piece for piece in found if piece is not None]
        for piece, tokens in zip(pieces, self._count([piece.content for piece in pieces]), strict=True):
            if tokens <= self.size or room == SHORTEST_CHARS:
                yield replace(piece, tokens=tokens)
            else:
                part = text[piece.start - start : piece.end - start]
                fewer = min(room - 1, int(room * self.size / tokens * MARGIN))
                yield from self._split(title, piece.start, part, fewer, characters, is_markdown)

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(one.ids) for one in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model in a folder or on the hub. Raises what transformers raises."""
    from tokenizers import Tokenizer

    file = Path(model) / "tokenizer.json"
    if file.is_file():
        return Tokenizer.from_file(str(file))
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model).backend_tokenizer


def _piece(title: str, start: int, text: str) -> _Piece | None:
    """A piece without the white space at its ends; None without a letter or digit, as a rule or a fence is."""
    folded, before = one_line(text), len(text) - len(text.lstrip())
    if not any(map(str.isalnum, folded)):
        return None
    return _Piece(title, start + before, start + len(text.rstrip()), folded)


def _joined(title: str, heading: str) -> str:
    """The document's title and the nearest heading."""
    both = f"{title}: {heading}" if title and heading and heading != title else title or heading
    return both[:MAX_TITLE_CHARS].strip()


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Parts that the splitter takes at one time, cut at white space: without lines, its time grows with the square."""
    start = 0
    while len(text) - start > BLOCK_CHARS:
        most = start + BLOCK_CHARS
        cut = 1 + max(text.rfind("\n", start, most), text.rfind(" ", most - BLOCK_CHARS // 10, most))
        cut = cut if cut > start else most
        yield start, text[start:cut]
        start = cut
    yield start, text[start:]


def _sections(title: str, text: str) -> tuple[str, list[_Section]]:
    """The document's title, its first heading if it has none, and what stands under each heading.

    A heading with nothing under it is left out, unless there are only such.
    """
    starts = [0, *accumulate(map(len, text.splitlines(keepends=True)))]
    headings = [(starts[first], starts[last], heading) for first, last, heading in _headings(text)]
    title = title or next((heading for _, _, heading in headings if heading), "")
    ends = [*(first for first, _, _ in headings), len(text)]
    sections = [_Section("", 0, text[: ends[0]])]
    for (_, last, heading), end in zip(headings, ends[1:], strict=True):
        sections.append(_Section(heading, last, text[last:end]))
    if not any(any(map(str.isalnum, section.text)) for section in sections):
        sections = [_Section("", 0, text)]
    return title, sections


def _headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Each heading's first line, the line behind it, and its text."""
    tokens = MarkdownIt().parse(text)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.map and token.level == 0:
            yield token.map[0], token.map[1], one_line(inline.content)
