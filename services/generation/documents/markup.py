"""The title and text of files that are one document each. What has headings is given as Markdown writes them."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.generation.documents.texts import MAX_TITLE_CHARS, one_line
from shared.documents import MAX_DOCUMENT_CHARS
from shared.errors import Fatal, first_line
from shared.tables import BadRow

CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)", re.IGNORECASE)
NO_TEXT = "script, style, noscript, template, nav, footer, aside, form, button, svg, iframe"
BLOCKS = "p, li, pre, blockquote, td, th, dt, dd, h1, h2, h3, h4, h5, h6, div, section, article, br, tr"


def read_plain(file: Path, encoding: str | None) -> tuple[str, str]:
    """Text in UTF-8, UTF-16 with a byte order mark, or `encoding`. Raises `BadRow` or OSError."""
    return "", _decode(file.read_bytes(), encoding)


def read_html(file: Path, encoding: str | None) -> tuple[str, str]:
    """A page without its navigation. Raises `BadRow`, `Fatal` or OSError."""
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError:
        raise _missing(file, "selectolax") from None
    content = file.read_bytes()
    declared = CHARSET.search(content[:4096])
    page = LexborHTMLParser(_decode(content, encoding or (declared[1].decode() if declared else None)))
    title = page.css_first("title")
    for node in page.css(NO_TEXT):
        node.decompose()
    for level in range(1, 7):
        for node in page.css(f"h{level}"):
            node.replace_with(f"\n\n{'#' * level} {one_line(node.text())}\n\n")
    for node in page.css(BLOCKS):
        node.insert_after("\n" if node.tag in ("td", "th", "br", "tr") else "\n\n")
        node.insert_before("\n" if node.tag in ("td", "th", "br", "tr") else "\n\n")
    lines = (line.strip() for line in (page.body.text() if page.body else "").splitlines())
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return one_line(title.text())[:MAX_TITLE_CHARS] if title else "", text


def read_pdf(file: Path, _encoding: str | None) -> tuple[str, str]:
    """A PDF's pages. Raises `BadRow`, `Fatal` or OSError."""
    try:
        from pypdf import PdfReader
    except ImportError:
        raise _missing(file, "pypdf") from None
    try:
        reader = PdfReader(file)
        title = one_line((reader.metadata.title if reader.metadata else None) or "")[:MAX_TITLE_CHARS]
        text = _bounded(page.extract_text() for page in reader.pages)
    except (BadRow, OSError):
        raise
    except Exception as error:  # damaged files end in all kinds of errors
        raise BadRow(f"can't be read as a PDF: {first_line(error)}") from None
    if not text.strip():
        raise BadRow("has no text, only pictures of it: recognise the text first (OCR)")
    return title, text


def read_docx(file: Path, _encoding: str | None) -> tuple[str, str]:
    """A Word document's paragraphs and tables. Raises `BadRow`, `Fatal` or OSError."""
    try:
        import docx
    except ImportError:
        raise _missing(file, "python-docx") from None
    try:
        document = docx.Document(str(file))
        title = one_line(document.core_properties.title or "")[:MAX_TITLE_CHARS]
        return title, _bounded(map(_block, document.iter_inner_content()))
    except (BadRow, OSError):
        raise
    except Exception as error:  # damaged files end in all kinds of errors
        raise BadRow(f"can't be read as a Word document: {first_line(error)}") from None


def _block(block: Any) -> str:
    """A paragraph, or a table with a line for each row."""
    if hasattr(block, "rows"):
        return "\n".join(" | ".join(one_line(cell.text) for cell in row.cells) for row in block.rows)
    level = re.fullmatch(r"(?:Heading (\d)|Title)", block.style.name if block.style else "")
    return f"{'#' * int(level[1] or 1)} {one_line(block.text)}" if level and block.text.strip() else str(block.text)


def _bounded(parts: Iterator[str]) -> str:
    """Parts with an empty line between them. Raises `BadRow` as soon as they are too long for a document."""
    kept, size = [], 0
    for part in parts:
        kept.append(part)
        size += len(part) + 2
        if size > MAX_DOCUMENT_CHARS:
            raise BadRow(f"has more than {MAX_DOCUMENT_CHARS} characters, which a document may have: split it")
    return "\n\n".join(kept)


def _decode(content: bytes, encoding: str | None) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = content.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        hint = "name its encoding with --encoding, as in --encoding latin-1"
        what = (
            "is binary, no text"
            if b"\0" in content[:8192]
            else f"is not {encoding or 'UTF-8'} ({error.reason}): {hint}"
        )
        raise BadRow(what) from None
    except LookupError:
        raise BadRow(f"its encoding {encoding!r} is unknown; name another with --encoding") from None
    if "\0" in text:
        raise BadRow("is binary, no text")
    return text


def _missing(file: Path, package: str) -> Fatal:
    return Fatal(f"{file}: needs the package {package}: .venv/bin/python -m pip install '.[generation,documents]'")
