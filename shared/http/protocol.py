"""uvicorn's HTTP protocol with bounds that it lacks: how large a request's head may be, and how long it may take.

Measured without them: a head of 64 MiB was read whole, and a client that sent half a head kept its connection open.
"""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
READ_BYTES = 256 * 1024
"""The most that comes in one piece: the head's end and the body's beginning may share it."""


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 to a head of more than `max_head_bytes`; closes a connection whose next head isn't whole in time."""

    max_head_bytes = MAX_HEAD_BYTES
    head_seconds = 15.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes, self._in_head, self._refused = 0, True, False
        self._close_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._close_in(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bound what is buffered of a head that isn't whole yet."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._close_timer is None:
                self._close_in(self.head_seconds)
        if self._in_head and self._head_bytes > self.max_head_bytes + READ_BYTES:
            self._refuse()
        elif not self._refused:
            super().data_received(data)

    def _refuse(self) -> None:
        if not self._refused:
            self._refused = True
            detail = f"The request line and headers may have at most {self.max_head_bytes} bytes together."
            problem = {"type": "about:blank", "title": "Headers too large", "status": 431, "detail": detail}
            body = json.dumps(problem).encode()
            head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
            self.transport.write(b"%bcontent-length: %d\r\nconnection: close\r\n\r\n%b" % (head, len(body), body))
            # Not at once: with bytes unread, the kernel would reset the connection and the caller see no answer.
            self._close_in(1.0)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next head may follow; uvicorn's keep-alive timeout bounds the pause before it."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # A large head may come in one piece, whole before it could be counted.
        headers = sum(len(name) + len(value) + 4 for name, value in cycle.scope["headers"])
        if len(self.url) + headers > self.max_head_bytes:
            self._refuse()
        else:
            super()._start_asgi_task(cycle, app)

    def _close_in(self, seconds: float) -> None:
        self._stop_waiting()
        self._close_timer = self.loop.call_later(seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
