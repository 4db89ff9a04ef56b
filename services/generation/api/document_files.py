"""One file as the body: `/documents/files` takes in its documents, `/sentences` shows its sentences."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, BaseModel, Field

from services.generation.api.documents import MOST_ERRORS, Cutting, DocumentsApi, Reception
from services.generation.documents.files import KINDS, TABLES, File, kind_of, read_texts
from services.generation.documents.sentences import sentences_in
from services.generation.documents.texts import COLUMNS as TEXT_COLUMNS
from services.generation.pairs.inputs import COLUMNS as SENTENCE_COLUMNS
from shared.documents import Document, Name
from shared.errors import Fatal
from shared.http.problems import Problem
from shared.tables import BadRow, columns

PORTION = 1000
"""Passages that are offered at one time."""
MOST_SENTENCES = 100_000
BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


def _is_readable(name: str) -> str:
    if kind_of(Path(name)) not in KINDS:
        raise ValueError(f"must end in {', '.join(KINDS)}")
    return name


FileName = Annotated[Name, AfterValidator(_is_readable)]


class FileOptions(Cutting):
    """A file of documents, and how they are taken in."""

    name: FileName
    """The file's, with its folders: what the dataset calls it. Its end says what it is."""
    column: str | None = None
    """Of a table: which column has the texts; left out, the first of those that usually do."""


class SentenceOptions(BaseModel, extra="forbid"):
    """A file of sentences."""

    name: FileName
    column: str | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_SENTENCES)] = MOST_SENTENCES


def router(api: DocumentsApi) -> APIRouter:
    """The routes."""
    routes, body = APIRouter(tags=["documents"]), {"requestBody": BODY}

    @routes.post(
        "/documents/files", summary="Cut a file, as it is, into passages and put them into the stream",
        openapi_extra=body,
    )  # fmt: skip
    async def _add(request: Request, query: Annotated[FileOptions, Query()]) -> dict[str, Any]:
        reception = await api.reception(query)
        async with _received(request, query.name) as file:
            texts = read_texts(file, query.column, None)
            while await asyncio.to_thread(_take, reception, file, texts, documents := list[Document]()):
                await api.keep(reception, documents, query.dry_run)
            await api.keep(reception, documents, query.dry_run)
            named = await asyncio.to_thread(_columns, file, TEXT_COLUMNS)
        return await api.answer(reception, f"{query.name} has no document.", columns=named)

    @routes.post(
        "/sentences", summary="A file's sentences, which a job may take as its `inputs`: nothing is kept",
        openapi_extra=body,
    )  # fmt: skip
    async def _sentences(request: Request, query: Annotated[SentenceOptions, Query()]) -> dict[str, Any]:
        async with _received(request, query.name) as file:
            try:
                found = await asyncio.to_thread(_read_sentences, file, query)
            except Fatal as fatal:
                raise _unreadable(fatal, file) from None
        if not found["sentences"]:
            errors = found["errors"]
            first = f" The first, {errors[0]['place']}: {errors[0]['message']}" if errors else ""
            raise Problem(422, "Invalid request", f"{query.name} has no sentence.{first}", **found)
        return found

    return routes


@contextlib.asynccontextmanager
async def _received(request: Request, name: str) -> AsyncIterator[File]:
    """The body as a file, for as long as it is read."""
    with tempfile.TemporaryDirectory() as folder:
        # Of the name, only the end: it says what the file is.
        path = Path(folder, "file" + "".join(Path(name).suffixes[-2:]))
        await asyncio.to_thread(path.write_bytes, await request.body())
        yield File(path, name)


def _columns(file: File, usual: Sequence[str]) -> list[str]:
    """A table's columns, the one first that is read unless another is named, or that seems to be meant; else none."""
    with contextlib.suppress(Fatal):  # which is told elsewhere
        return columns(file.path, usual) if kind_of(file.path) in TABLES else []
    return []


def _take(reception: Reception, file: File, texts: Iterator[Any], documents: list[Document]) -> bool:
    """Take documents until there are enough to offer; False at the end of the file, and where it can't go on."""
    passages = 0
    try:
        for place, text in texts:
            document = reception.enter(place, text)
            if reception.stopped:
                return False
            if document is not None:
                documents.append(document)
                passages += len(document.passages)
            if passages >= PORTION:
                return True
    except Fatal as fatal:
        reception.enter(file.name, BadRow(str(fatal).removeprefix(f"{file.path}: ")))
    return False


def _read_sentences(file: File, query: SentenceOptions) -> dict[str, Any]:
    """Each sentence once, how many rows have none, and the first of these. Raises `Fatal`."""
    sentences, errors, bad = dict[str, None](), list[dict[str, str]](), 0
    for place, sentence in sentences_in(file, query.column):
        if isinstance(sentence, str):
            sentences[sentence] = None
        else:
            bad += 1
            if len(errors) < MOST_ERRORS:
                errors.append({"place": place, "message": str(sentence)})
        if len(sentences) >= query.limit:
            break
    found = {"sentences": list(sentences), "bad": bad, "errors": errors}
    return found | {"columns": _columns(file, SENTENCE_COLUMNS)}


def _unreadable(fatal: Fatal, file: File) -> Problem:
    return Problem(422, "Invalid request", str(fatal).replace(str(file.path), file.name))
