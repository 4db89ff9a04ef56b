"""Our own routes for files of texts that are embedded in the background."""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from services.embedding.api.batch_lines import READ_BYTES, BadLine, LineReader, json_lines, parquet
from services.embedding.api.errors import problem_errors
from services.embedding.api.serialization import VERSION_HEADER
from services.embedding.serving.batch_runner import BatchRunner
from services.embedding.serving.batch_store import Batch, BatchStore, NoBatch, NoRoom, new_batch
from services.embedding.serving.quantise import NumberType
from services.embedding.serving.registry import VersionRegistry
from services.embedding.serving.service import EmbedRequest, InputType, dimensions_of, options_of
from services.embedding.settings import EmbeddingSettings
from shared.http.problems import Problem

PATH = "/batches"
WRITERS = {"jsonl": (json_lines, "application/x-ndjson"), "parquet": (parquet, "application/vnd.apache.parquet")}
FILE = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"id": "1", "text": "Somebody sings."}\n',
            }
        },
    }
}
RESULT: dict[int | str, dict[str, Any]] = {200: {"content": {media: {} for _, media in WRITERS.values()}}}


class BatchList(BaseModel):
    """All of them, oldest first."""

    batches: list[Batch]


class Reading(BaseModel):
    """How the texts of a file are read; OpenAI's lines say it themselves."""

    model: str | None = None
    prompt_name: str | None = None
    input_type: InputType | None = None
    dimensions: Annotated[int | None, Field(description="A length that the version was trained for")] = None


def router(store: BatchStore, runner: BatchRunner, versions: VersionRegistry, settings: EmbeddingSettings) -> APIRouter:
    """The routes."""
    routes, uploads = APIRouter(tags=["batches"]), Uploads(store, versions, settings)
    summary = "Embed a file of texts in the background: JSON Lines of texts, or OpenAI's batch file"
    errors = problem_errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 507)

    @routes.post(PATH, summary=summary, status_code=202, openapi_extra=FILE, responses=errors)
    async def _submit(http: Request, response: Response, reading: Annotated[Reading, Query()]) -> Batch:
        try:
            batch = await uploads.receive(http, reading)
        except BadLine as error:
            raise Problem(422, "Invalid file", str(error)) from None
        except NoRoom as error:
            raise Problem(429, "No room for this batch", str(error), {"Retry-After": "60"}) from None
        except OSError as error:
            detail = f"The folder of batches can't be written: {error.strerror}"
            raise Problem(507, "Not stored", detail) from None
        runner.wake()
        response.headers["Location"] = f"/batches/{batch.id}"
        return batch

    _add_reading_routes(routes, store)
    return routes


class Uploads:
    """Files on their way to the disk."""

    def __init__(self, store: BatchStore, versions: VersionRegistry, settings: EmbeddingSettings) -> None:
        self._store, self._versions = store, versions
        self._max_bytes, self._max_line_bytes = settings.max_batch_bytes, settings.max_body_bytes
        self._max_texts = settings.max_client_inputs

    async def receive(self, http: Request, reading: Reading) -> Batch:
        """The batch of a request's body. Raises `BadLine`, `NoRoom`, `EmbeddingError` and OSError."""
        with self._store.upload() as folder, LineReader(folder, self._max_line_bytes, self._max_texts) as lines:
            await asyncio.to_thread(self._store.check_room)
            pieces, received = bytearray(), 0
            self._check_size(int(http.headers.get("content-length", "0")))  # the server has seen that it is a number
            async for piece in http.stream():
                pieces += piece
                received += len(piece)
                self._check_size(received)
                if len(pieces) >= READ_BYTES:
                    await asyncio.to_thread(self._take, lines, bytes(pieces))
                    pieces.clear()
            await asyncio.to_thread(self._take, lines, bytes(pieces))
            await asyncio.to_thread(lines.finish)
            batch = await self._describe(reading, http.headers.get(VERSION_HEADER), lines)
            return await asyncio.to_thread(self._store.submit, folder, batch)

    def _check_size(self, size: int) -> None:
        """Raises `Problem`."""
        if size > self._max_bytes:
            detail = f"The file may have at most {self._max_bytes} bytes: send it in parts."
            raise Problem(413, "Body too large", detail)

    def _take(self, lines: LineReader, data: bytes) -> None:
        self._store.check_room()
        lines.feed(data)

    async def _describe(self, reading: Reading, pin: str | None, lines: LineReader) -> Batch:
        """What is asked for, checked against the version. Raises `BadLine` and `EmbeddingError`."""
        if lines.form == "openai":
            if fields := reading.model_fields_set:
                raise BadLine(f"{min(fields)}: the lines of OpenAI's form say it themselves")
            reading = Reading.model_validate({name: lines.fields[name] for name in Reading.model_fields})
        encoder = await self._versions.choose(reading.model, pin)
        prompt_name, input_type = reading.prompt_name, reading.input_type
        request = EmbedRequest([], prompt_name=prompt_name, input_type=input_type, dimensions=reading.dimensions)
        options_of(request, encoder)
        dimensions = dimensions_of(request, encoder)
        return new_batch(
            lines.lines,
            lines.texts,
            form=lines.form,
            version=encoder.version,
            prompt_name=prompt_name,
            input_type=input_type,
            dimensions=dimensions,
            int8_range=encoder.int8_ranges[dimensions],
            base64=lines.fields.get("encoding_format") == "base64",
        )


def _add_reading_routes(routes: APIRouter, store: BatchStore) -> None:
    errors = problem_errors(401, 404)

    # Not async: they read the disk.
    @routes.get("/batches", summary="All batches, oldest first", responses=problem_errors(401))
    def _batches() -> BatchList:
        return BatchList(batches=store.all())

    @routes.get("/batches/{id}", summary="A batch, and how many of its texts are done", responses=errors)
    def _batch(id: str) -> Batch:
        return _get(store, id)

    @routes.delete("/batches/{id}", summary="Cancel a batch and delete its files", responses=errors)
    def _delete(id: str) -> Batch:
        try:
            return store.delete(id)
        except NoBatch:
            raise _not_found(id) from None

    @routes.get(
        "/batches/{id}/result", summary="Its vectors, in the order of the file", response_class=Response,
        responses=RESULT | problem_errors(401, 404, 409),
    )  # fmt: skip
    def _result(id: str, format: Literal["jsonl", "parquet"] = "jsonl", output_dtype: NumberType = "float") -> Response:
        batch = _get(store, id)
        if batch.state != "done":
            why = batch.error or f"{batch.done} of {batch.texts} texts are done"
            raise Problem(409, "Not done", f"{id} has no result: {why}")
        if batch.base64 and output_dtype != "float":
            raise Problem(409, "Not this type", "Its lines ask for base64, which holds float32")
        write, media_type = WRITERS[format]
        content: Iterator[bytes] = write(batch, store.results(batch), output_dtype)
        return StreamingResponse(content, media_type=media_type, headers={VERSION_HEADER: batch.version})


def _get(store: BatchStore, id_: str) -> Batch:
    try:
        return store.get(id_)
    except NoBatch:
        raise _not_found(id_) from None


def _not_found(id_: str) -> Problem:
    return Problem(404, "No such batch", f"There is no batch {id_[:40]!r}; it may have been deleted")
