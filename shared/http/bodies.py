"""Bodies within bounds, in both directions: how large, how long, how much at one time, and compressed or not."""

import asyncio
import zlib
from typing import Any

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.problems import Problem, Renderer

ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
ENCODINGS = ("gzip", "x-gzip", "deflate")
BODIES_AT_ONCE = 8
"""Bodies of the greatest size that are held at one time; a multitude of small ones counts the same."""
SLICE_BYTES = 256 * 1024
"""Of an answer, handed to the connection at a time. A caller that takes no slice in time is dropped by the protocol."""


class BodyLimit:
    """Refuse a body of more than `limit` bytes, announced, in chunks or decompressed, and one not whole in `seconds`.

    Bodies and answers of all requests together hold at most `BODIES_AT_ONCE * limit` bytes, and one body more; past it,
    bodies are refused with 429. Starlette's own `RequestBodyLimitMiddleware` always answers in plain text.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float, render: Renderer) -> None:
        self._app, self._limit, self._seconds, self._render = app, limit, seconds, render
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
        problem = self._refusal(
            int(headers.get(b"content-length", b"0")), encoding
        )  # the server has checked the number
        if problem is not None:
            return await self._render(Request(scope), problem)(scope, receive, send)
        body = _Body(self, receive, _Decoder() if encoding in ENCODINGS else None)
        try:
            await self._app(scope, body.receive, lambda message: self._send(message, send))
        finally:
            self._held -= body.received

    def _refusal(self, announced: int, encoding: str) -> Problem | None:
        if announced > self._limit:
            return Problem(413, "Body too large", self.too_large)
        if encoding not in ("", "identity", *ENCODINGS):
            detail = f"Content-Encoding {encoding[:40]!r} can't be read here: send gzip, deflate or none."
            return Problem(415, "Unsupported encoding", detail, {"Accept-Encoding": "gzip, deflate"})
        return None

    @property
    def too_large(self) -> str:
        return f"The body may have at most {self._limit} bytes: send less at a time."

    def count(self, size: int, received: int) -> None:
        """Count `size` more bytes of a body in, of which there are `received` now. Raises `HTTPException`."""
        self._held += size
        if received > self._limit:
            raise HTTPException(413, self.too_large)  # FastAPI lets no other exception through from reading a body
        if self._held > BODIES_AT_ONCE * self._limit and self._held > received:
            detail = "Too much is being received and answered. Try again in 2 s, or send less at once."
            raise HTTPException(429, detail, {"Retry-After": "2", "Connection": "close"})

    def room(self, received: int) -> int:
        """Bytes that a body may still have."""
        return self._limit - received

    @property
    def seconds(self) -> float:
        return self._seconds

    async def _send(self, message: Message, send: Send) -> None:
        """An answer in slices: the next one waits until the caller has taken most of those before it."""
        body = message.get("body", b"")
        if len(body) <= SLICE_BYTES:
            return await send(message)
        self._held += len(body)
        try:
            for start in range(0, len(body), SLICE_BYTES):
                more = message.get("more_body", False) or start + SLICE_BYTES < len(body)
                piece = memoryview(body)[start : start + SLICE_BYTES]
                await send({"type": message["type"], "body": piece, "more_body": more})
        finally:
            self._held -= len(body)


class _Body:
    """The body of one request, as it comes."""

    def __init__(self, limits: BodyLimit, receive: Receive, decoder: "_Decoder | None") -> None:
        self._limits, self._receive, self._decoder = limits, receive, decoder
        self._deadline = asyncio.get_running_loop().time() + limits.seconds
        self._is_whole = False
        self.received = 0

    async def receive(self) -> Message:
        """ASGI's `receive`. Raises `HTTPException` for a body that is too large, too slow or wrongly compressed."""
        if self._is_whole:  # what comes now is the caller's leaving
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            detail = f"The body must have come whole within {self._limits.seconds:g} s."
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        if message["type"] != "http.request":
            return message
        self._is_whole = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        if self._decoder is not None:
            body = self._decoder.decode(body, self._limits.room(self.received), self._is_whole)
            message = {**message, "body": body}
        self.received += len(body)
        self._limits.count(len(body), self.received)
        return message


class _Decoder:
    """gzip, also of several members, and deflate, a piece at a time."""

    def __init__(self) -> None:
        self._inflate: Any = None

    def decode(self, data: bytes, room: int, is_last: bool) -> bytes:
        """At most one byte more than `room`: the rest would be refused anyway. Raises `HTTPException` 400."""
        parts, size = [], 0
        try:
            while data and size <= room:
                if self._inflate is None or self._inflate.eof:
                    self._inflate = zlib.decompressobj(ZLIB_OR_GZIP)
                part = self._inflate.decompress(data, room + 1 - size)
                parts.append(part)
                size += len(part)
                data = self._inflate.unused_data
        except zlib.error:
            raise HTTPException(
                400, "The body is not what its Content-Encoding says: it can't be decompressed."
            ) from None
        if is_last and size <= room and self._inflate is not None and not self._inflate.eof:
            raise HTTPException(400, "The compressed body ends too early.")
        return b"".join(parts)
