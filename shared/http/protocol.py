"""uvicorn's HTTP protocol with bounds that it lacks: how large a request's head may be, and how long it may take.

Measured without them: a head of 64 MiB was read whole, and a client that sent half a head kept its connection.
"""

import asyncio
import json
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 15.0
READ_BYTES = 256 * 1024
"""The most that comes in one piece: the head's end and the body's beginning may share it."""
LINGER_SECONDS = 1.0


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 to a head of more than `max_head_bytes`; closes a connection whose next head isn't whole in time."""

    max_head_bytes = MAX_HEAD_BYTES
    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._refused = False
        self._too_late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A head must follow in time."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more is awaited."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bound what is kept of a head that isn't whole yet."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._too_late is None:
                self._await_head()
        if self._in_head and self._head_bytes > self.max_head_bytes + READ_BYTES:
            self._refuse()
        elif not self._refused:
            super().data_received(data)

    def _refuse(self) -> None:
        if not self._refused:
            self._refused = True
            self.transport.write(_refusal(self.max_head_bytes))
            # Not at once: with bytes unread, the kernel would reset the connection and the caller see no answer.
            self._stop_waiting()
            self._too_late = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next head may follow; uvicorn's keep-alive timeout bounds the pause before it."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # A large head may come in one piece, whole before it could be counted.
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in cycle.scope["headers"])
        super()._start_asgi_task(cycle, app if size <= self.max_head_bytes else _too_large(self.max_head_bytes))

    def _await_head(self) -> None:
        self._too_late = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None


def _detail(limit: int) -> bytes:
    said = f"The request line and headers may have at most {limit} bytes together."
    return json.dumps({"type": "about:blank", "title": "Headers too large", "status": 431, "detail": said}).encode()


def _refusal(limit: int) -> bytes:
    body = _detail(limit)
    return (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
        b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
    )


def _too_large(limit: int) -> Any:
    async def _app(_scope: Scope, _receive: Receive, send: Send) -> None:
        body = _detail(limit)
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body)),
                   (b"connection", b"close")]  # fmt: skip
        await send({"type": "http.response.start", "status": 431, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return _app
