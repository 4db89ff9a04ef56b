"""`/documents`: what is posted is cut and put into the stream while it comes; questions go on to the trainer."""

import asyncio
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, model_validator

from services.generation.documents.bodies import BadBody, Items
from services.generation.documents.cutting import Cutter, load_tokenizer
from services.generation.documents.intake import BacklogFull, Intake, offer
from services.generation.documents.texts import Text, from_row
from services.generation.pairs.languages import teacher_languages
from services.generation.settings import GenerationSettings
from shared.documents import Document
from shared.http.problems import Problem
from shared.settings import Settings
from shared.stream import PairStream
from shared.tables import BadRow, Row
from shared.teacher import locate

PATH = "/documents"
PATIENCE_S = 10.0
"""How long a request waits for a trainer that takes nothing."""
MOST_ERRORS = 50
TRAINER_S = 600.0
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/jsonl": {
            "schema": {"type": "string", "description": "A text or an object a line: id, title, text, url"}
        },
        "application/json": {
            "schema": {
                "type": "array",
                "items": {
                    "anyOf": [
                        {"type": "string"},
                        {
                            "type": "object",
                            "properties": {name: {"type": "string"} for name in ("id", "title", "text", "url")},
                            "required": ["text"],
                        },
                    ]
                },
            }
        },
    },
}


class Cutting(BaseModel, extra="forbid"):
    """How documents are taken in."""

    size: Annotated[int, Field(ge=16, le=512)] = 256
    """Most tokens of a passage, its title among them; no passage has more than 2,000 characters either."""
    overlap: Annotated[int, Field(ge=0, le=256)] = 0
    """Tokens that two neighbouring passages share."""
    window: Annotated[int, Field(ge=16)] = 256
    """How many tokens the student reads; passages with more are counted."""
    dry_run: bool = False
    """Show counts, lengths and the first passages, and keep nothing."""
    skip_bad: bool = False
    """Pass over what is no document, and count it."""

    @model_validator(mode="after")
    def _overlap_is_less_than_half(self) -> "Cutting":
        if self.overlap * 2 > self.size:
            raise ValueError("overlap must be at most half of size")
        return self


@dataclass
class Reception:
    """Takes the body of one request."""

    intake: Intake
    items: Items
    skip_bad: bool

    def __post_init__(self) -> None:
        self.errors: list[dict[str, str]] = []
        self.stopped: str | None = None

    def take(self, data: bytes, is_last: bool = False) -> list[Document]:
        """The documents that are whole now. What ends the reading is left in `stopped`."""
        documents = []
        try:
            for number, row in self.items.feed(data, is_last):
                document = self.enter(self.items.place(number), row)
                if self.stopped:
                    break
                if document is not None:
                    documents.append(document)
        except BadBody as error:
            self.stopped = str(error)
        return documents

    def enter(self, place: str, item: Text | Row | BadRow) -> Document | None:
        """The document of a text or a row, if something of it is left; what is wrong with one is noted."""
        try:
            return self.intake.take(item if isinstance(item, Text) else from_row(item))
        except BadRow as error:
            self._note(place, error)
            return None

    def _note(self, place: str, error: BadRow) -> None:
        self.intake.counts.bad += 1
        if len(self.errors) < MOST_ERRORS:
            self.errors.append({"place": place, "message": str(error)})
        if not self.skip_bad:
            self.stopped = f"{place}: {error}"


class Selection(BaseModel, extra="forbid"):
    """Which documents; all that is given must hold."""

    id: str | None = None
    source: str | None = None
    """The file that they came from."""
    text: str | None = None
    """What the title or text of one of its passages contains, letter for letter."""
    dry_run: bool = False
    """Only count them."""


class DocumentsApi:
    """The routes, and what answers them."""

    def __init__(self, common: Settings, own: GenerationSettings, stream: PairStream) -> None:
        self._common, self._stream = common, stream
        self._languages = teacher_languages(own.teacher_languages, common.teacher)
        self.router = APIRouter(tags=["documents"])
        add = "Cut documents into passages and put them into the stream"
        show = "How many documents and passages the trainer keeps, and the first ones"
        delete = "Delete documents by id, source or text, and the queries for their passages"
        self.router.post(PATH, summary=add, openapi_extra={"requestBody": BODY})(self._add)
        self.router.get(PATH, summary=show)(self._show)
        self.router.delete(PATH, summary=delete)(self._delete)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(locate(self._common.teacher, self._common.cache_dir))

    async def _add(self, request: Request, query: Annotated[Cutting, Query()]) -> dict[str, Any]:
        """Take the body a piece at a time; the next one waits until the stream has the documents of this one."""
        reception = await self.reception(query)
        async for piece in request.stream():  # ends with an empty piece
            documents = await asyncio.to_thread(reception.take, piece, is_last=not piece)
            await self.keep(reception, documents, query.dry_run)
            if reception.stopped:
                break
        return await self.answer(reception, "The body has no document.")

    async def reception(self, query: Cutting) -> Reception:
        """What takes one body in, as it is asked for."""
        cutter = Cutter(await asyncio.to_thread(lambda: self._tokenizer), query.size, query.overlap)
        return Reception(Intake(cutter, query.window), Items(), query.skip_bad)

    async def keep(self, reception: Reception, documents: list[Document], dry_run: bool) -> None:
        """Put documents into the stream, unless they are only looked at. Raises `Problem` 429 when it is full."""
        try:
            if not dry_run:
                await offer(self._stream, documents, reception.intake.counts, PATIENCE_S)
        except BacklogFull:
            detail = "The trainer is behind, and its stream full; what was accepted stays. Send the same again later."
            told = await self._told(reception)
            raise Problem(429, "Too many requests", detail, {"Retry-After": "10"}, **told) from None

    async def answer(self, reception: Reception, nothing: str, **facts: Any) -> dict[str, Any]:
        """What became of a body that was read. Raises `Problem`, with the detail `nothing` if no document was in it."""
        told = await self._told(reception) | facts
        if reception.stopped:
            kept = "What came before it is kept, and the same body may be sent again; skip_bad=true passes over it."
            raise Problem(422, "Invalid request", f"{reception.stopped}. {kept}", **told)
        if not reception.intake.counts.documents:
            raise Problem(422, "Invalid request", nothing, **told)
        return told

    async def _told(self, reception: Reception) -> dict[str, Any]:
        """What became of a body by now."""
        warning = await asyncio.to_thread(reception.intake.warning, self._languages, self._common.teacher)
        counted = reception.intake.counts.summary() | {"backlog": await self._stream.backlog()}
        return counted | {"errors": reception.errors, "warnings": [warning] if warning else []}

    async def _show(self, request: Request) -> Response:
        return await self._ask(request, {})

    async def _delete(self, request: Request, query: Annotated[Selection, Query()]) -> Response:
        return await self._ask(request, query.model_dump(mode="json", exclude_none=True))

    async def _ask(self, request: Request, parameters: dict[str, Any]) -> Response:
        """The trainer's own answer; it has the keys of this service."""
        sent = {"authorization": key} if (key := request.headers.get("authorization")) else {}
        timeout = httpx.Timeout(TRAINER_S, connect=5.0)
        try:
            async with httpx.AsyncClient(base_url=self._common.trainer_url, timeout=timeout) as client:
                answer = await client.request(request.method, PATH, params=parameters, headers=sent)
        except httpx.HTTPError as error:
            detail = f"The trainer doesn't answer ({type(error).__name__}): is it up, and PAIRWRIGHT_TRAINER_URL right?"
            raise Problem(503, "Trainer unavailable", detail, {"Retry-After": "5"}) from None
        kept = {name: value for name in ("content-type", "retry-after") if (value := answer.headers.get(name))}
        return Response(answer.content, answer.status_code, kept)
