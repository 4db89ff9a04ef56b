"""uvicorn's HTTP protocol with bounds that it lacks, and without upgrades: every request is answered in HTTP/1.1.

Measured without them: a head of 64 MiB was read whole, half a head kept its connection open, a caller that read nothing
kept its answer in memory for ever, and the body of a request that offers an upgrade was read as the next request.
"""

import asyncio
import json
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
PIECE_BYTES = 16 * 1024
"""Parsed at a time. What follows a request that waits for its turn is parsed once that request is being answered."""
CHUNK_BYTES = 16
"""Of a chunk's size line: no part of head or trailers."""
UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})


class BoundedProtocol(HttpToolsProtocol):
    """Bounds what a connection holds, and for how long.

    Head and trailers of more than `max_head_bytes` are answered with 431. A connection ends when its next head isn't
    whole within `head_seconds`, or when its caller takes no more of an answer for `write_seconds`.
    """

    max_head_bytes = MAX_HEAD_BYTES
    head_seconds = 15.0
    write_seconds = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes, self._in_head, self._refused, self._offers_upgrade = 0, True, False, False
        self._unread = memoryview(b"")
        self._running: RequestResponseCycle | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._close_in(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._unread = memoryview(b"")
        self.pipeline.clear()
        # uvicorn tells the request that was parsed last. The one that runs would go on and write to what is closed.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)  # it resumes writing, which stops the other timer
        self.resume_writing()

    # ---- reading

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unread = memoryview(bytes(self._unread) + data if self._unread else data)
        self._read_on()

    def _read_on(self) -> None:
        """Parse what has come, as long as no request waits for the one before it."""
        while self._unread and not self.pipeline and not self.transport.is_closing():
            piece, self._unread = self._unread[:PIECE_BYTES], self._unread[PIECE_BYTES:]
            self._parse(piece)
        if self._unread and not self.transport.is_closing():
            self.flow.pause_reading()

    def _parse(self, data: bytes | memoryview) -> None:
        self._unset_keepalive_if_required()
        self._head_bytes += len(data)
        if self._in_head and self._close_timer is None:
            self._close_in(self.head_seconds)
        if self._head_bytes > self.max_head_bytes + PIECE_BYTES:
            return self._refuse()
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self.parser.get_method() == b"CONNECT":
                    return self.send_400_response("This is no proxy.")
                # The parser takes what follows for another protocol's. A new one reads on, as if nothing were offered.
                data = self._head_without_offer() + bytes(data[offer.args[0] :])
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            except httptools.HttpParserError:
                return self.send_400_response("Invalid HTTP request received.")

    def _head_without_offer(self) -> bytes:
        """The head that was parsed last, again, but for the headers by which it offers an upgrade."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name not in UPGRADE_HEADERS]
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        self._offers_upgrade = self.parser.should_upgrade()
        if not self._offers_upgrade:
            self._in_head = False
            self._stop_waiting()
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A chunk's size counts as little as its content does."""
        self._head_bytes = max(0, self._head_bytes - CHUNK_BYTES)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = max(0, self._head_bytes - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next head may follow; the keep-alive timeout bounds the pause before it."""
        if not self._offers_upgrade:
            self._in_head, self._head_bytes = True, 0
            self._stop_waiting()
            super().on_message_complete()

    def _refuse(self) -> None:
        if not self._refused:
            self._refused, self._unread = True, memoryview(b"")
            detail = f"The request line and headers may have at most {self.max_head_bytes} bytes together."
            problem = {"type": "about:blank", "title": "Headers too large", "status": 431, "detail": detail}
            body = json.dumps(problem).encode()
            head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
            self.transport.write(b"%bcontent-length: %d\r\nconnection: close\r\n\r\n%b" % (head, len(body), body))
            # Not at once: with bytes unread, the kernel would reset the connection and the caller see no answer.
            self._close_in(1.0)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # A large head may come in one piece, whole before it could be counted.
        headers = sum(len(name) + len(value) + 4 for name, value in cycle.scope["headers"])
        if len(self.url) + headers > self.max_head_bytes:
            self._refuse()
        else:
            self._running = cycle
            super()._start_asgi_task(cycle, app)

    # ---- writing

    def pause_writing(self) -> None:
        """The caller is slower than we are: it has `write_seconds` to take what waits."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self._in_head:
            self._close_in(self.head_seconds)  # answered before its body was whole: the rest is thrown away
        self._read_on()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came. Closing would wait for a caller who doesn't take the end of its answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _close_in(self, seconds: float) -> None:
        self._stop_waiting()
        self._close_timer = self.loop.call_later(seconds, self._close)

    def _close(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
