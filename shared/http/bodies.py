"""Bodies within bounds, in both directions: how large, how long, how much at one time, and compressed or not."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.paths import CONSOLE_API
from shared.http.problems import Problem, Renderer

ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
ENCODINGS = ("gzip", "x-gzip", "deflate")
BODIES_AT_ONCE, LEAST_HELD_BYTES = 8, 64 * 1024 * 1024
"""Bodies and answers that are held at one time: so many of a body's greatest size together, or so many bytes."""
PIECE_BYTES = 128 * 1024 * 1024
"""Of a body that is taken as it comes, decompressed at a time: more than 64 KiB, which come at once, can become."""
SLICE_BYTES = 256 * 1024
"""Of an answer, handed to the connection at a time. A caller that takes no slice in time is dropped by the protocol."""
TOO_MUCH = "Too much is being received and answered. Try again in 2 s, or send less at once."


class BodyLimit:
    """Refuse a body of more than `limit` bytes, announced, in chunks or decompressed, and one not whole in `seconds`.

    What bodies and answers of all requests together hold is bounded too; past it, the next ones become a 429.
    A POST to one of the paths `streamed` may have any size, as its route holds no more of it than a piece; each piece
    has `seconds`. Starlette's own `RequestBodyLimitMiddleware` always answers in plain text.
    """

    def __init__(
        self, app: ASGIApp, limit: int, seconds: float, render: Renderer, streamed: Collection[str] = ()
    ) -> None:
        self._app, self._limit, self._render, self._streamed = app, limit, render, streamed
        self._held, self._most = 0, max(BODIES_AT_ONCE * limit, LEAST_HELD_BYTES)
        self.seconds = seconds
        self.too_large = f"The body may have at most {limit} bytes: send less at a time."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
        announced = int(headers.get(b"content-length", b"0"))  # the server has checked that it is a number
        # What the console passes on is bounded where it goes.
        is_passed = scope["path"].startswith(CONSOLE_API)
        is_streamed = is_passed or (scope["method"] == "POST" and scope["path"] in self._streamed)
        problem = self._refusal(0 if is_streamed else announced, encoding)
        if problem is not None:
            return await self._render(Request(scope), problem)(scope, receive, send)
        body = _Body(self, receive, _Decoder() if encoding in ENCODINGS else None, is_streamed)
        answer = _Answer(self, send, lambda problem: self._render(Request(scope), problem)(scope, receive, send))
        try:
            await self._app(scope, body.receive, answer.send)
        finally:
            self._held -= body.received + answer.size

    def _refusal(self, announced: int, encoding: str) -> Problem | None:
        if announced > self._limit:
            return Problem(413, "Body too large", self.too_large)
        if encoding not in ("", "identity", *ENCODINGS):
            detail = f"Content-Encoding {encoding[:40]!r} can't be read here: send gzip, deflate or none."
            return Problem(415, "Unsupported encoding", detail, {"Accept-Encoding": "gzip, deflate"})
        return None

    def room(self, received: int) -> int:
        """Bytes that a body may still have."""
        return self._limit - received

    def hold(self, size: int, own: int) -> bool:
        """Count `size` bytes in for a request that has `own`, these among them; whether it is too much.

        A request that would be alone is never too much.
        """
        self._held += size
        return self._held > max(self._most, own)


class _Answer:
    """The answer to one request, as it goes out."""

    def __init__(self, limits: BodyLimit, send: Send, refuse: Callable[[Problem], Awaitable[None]]) -> None:
        self._limits, self._send, self._refuse = limits, send, refuse
        self._is_refused = False
        self.size = 0

    async def send(self, message: Message) -> None:
        """ASGI's `send`, in slices: the next one waits until the caller has taken most of those before it."""
        if self._is_refused:
            return
        if message["type"] == "http.response.start":
            self.size = int(dict(message["headers"]).get(b"content-length", b"0"))
            if self._limits.hold(self.size, self.size) and self.size > SLICE_BYTES:
                self._is_refused = True
                return await self._refuse(Problem(429, "Too many requests", TOO_MUCH, {"Retry-After": "2"}))
        body = message.get("body", b"")
        if len(body) <= SLICE_BYTES:
            return await self._send(message)
        for start in range(0, len(body), SLICE_BYTES):
            more = message.get("more_body", False) or start + SLICE_BYTES < len(body)
            piece = memoryview(body)[start : start + SLICE_BYTES]
            await self._send({"type": message["type"], "body": piece, "more_body": more})


class _Body:
    """The body of one request, as it comes."""

    def __init__(
        self, limits: BodyLimit, receive: Receive, decoder: "_Decoder | None", is_streamed: bool = False
    ) -> None:
        self._limits, self._receive, self._decoder, self._is_streamed = limits, receive, decoder, is_streamed
        self._deadline = self._from_now()
        self._is_whole = False
        self.received = 0

    async def receive(self) -> Message:
        """ASGI's `receive`. Raises `HTTPException` for a body that is too large, too slow or wrongly compressed."""
        if self._is_whole:  # what comes now is the caller's leaving
            return await self._receive()
        message = await self._in_time()
        if message["type"] != "http.request":
            return message
        self._is_whole = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        if self._decoder is not None:
            room = PIECE_BYTES if self._is_streamed else self._limits.room(self.received)
            body = self._decoder.decode(body, room, self._is_whole)
            message = {**message, "body": body}
        if self._is_streamed:
            if len(body) > PIECE_BYTES:
                raise HTTPException(413, "The body becomes too large when it is decompressed.")
            return message
        self.received += len(body)
        is_too_much = self._limits.hold(len(body), self.received)
        if self._limits.room(self.received) < 0:
            raise HTTPException(413, self._limits.too_large)  # FastAPI lets no other exception through from a body
        if is_too_much:
            raise HTTPException(429, TOO_MUCH, {"Retry-After": "2", "Connection": "close"})
        return message

    async def _in_time(self) -> Message:
        """The next piece. Raises `HTTPException` 408."""
        if self._is_streamed:
            self._deadline = self._from_now()
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            what = "A piece of the body must come" if self._is_streamed else "The body must have come whole"
            detail = f"{what} within {self._limits.seconds:g} s."
            raise HTTPException(408, detail, {"Connection": "close"}) from None

    def _from_now(self) -> float:
        return asyncio.get_running_loop().time() + self._limits.seconds


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
