"""Listening, and uvicorn with the bounds and the shutdown that our services need."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from shared.errors import Fatal
from shared.http.protocol import BoundedProtocol
from shared.process import LoopFactory


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket, taken before anything slow is loaded. Raises `Fatal` that names `setting`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio turns Nagle's algorithm off only then, and with it each small answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise Fatal(f"can't listen on {host}:{port}: {error.strerror}. Free the port or set {setting}.") from None
    return listener


def loop_factory() -> LoopFactory | None:
    """uvicorn's choice of an event loop for `shared.process.run`: uvloop, where it is installed."""
    return uvicorn.Config("", log_config=None).get_loop_factory()


class Server(uvicorn.Server):
    """On SIGTERM and SIGINT, finishes requests in flight for up to `drain_s` seconds and returns.

    uvicorn's own would raise the signal again before our own clean-up. With `handles_signals` False, or outside the
    main thread, the caller sets `should_exit`. A connection without a request is closed after `keep_alive_s`.
    """

    def __init__(self, app: ASGIApp, drain_s: float, handles_signals: bool = True, keep_alive_s: float = 75.0) -> None:
        config = uvicorn.Config(
            app, http=BoundedProtocol, ws="none", log_config=None, access_log=False, server_header=False,
        )  # fmt: skip
        config.timeout_keep_alive = keep_alive_s  # type: ignore[assignment]  # asyncio takes fractions too
        config.timeout_graceful_shutdown = int(drain_s)
        super().__init__(config)
        self._handles_signals = handles_signals

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While serving, both signals ask for the end; a second SIGINT doesn't wait for requests in flight."""
        loop, in_main = asyncio.get_running_loop(), threading.current_thread() is threading.main_thread()
        signals = (signal.SIGTERM, signal.SIGINT) if self._handles_signals and in_main else ()
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
