"""The trainer's own small endpoint: `/metrics`, `/livez` and `/readyz`, in threads beside the worker."""

import contextlib
import json
import logging
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from shared.errors import first_line

log = logging.getLogger(__name__)

Checks = Callable[[], dict[str, str]]
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the look-up of our own name, which may take seconds where there is no name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "trainer", self.server_address[1]
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    timeout = 10  # a caller who says nothing

    def log_message(self, format: str, *args: Any) -> None:
        """Not a line a scrape."""


@contextlib.contextmanager
def endpoint(host: str, port: int, registry: CollectorRegistry, checks: Checks) -> Iterator[None]:
    """Answer until the block ends. Port 0 answers nowhere.

    A port that can't be had is a warning: a second trainer that waits on the same machine is no fault, and collecting
    matters more than being watched.
    """
    server = _listen(host, port) if port else None
    if server is None:
        yield
        return
    server.set_app(_application(registry, checks))
    threading.Thread(target=server.serve_forever, name="endpoint", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _listen(host: str, port: int) -> _Server | None:
    try:
        return _Server((host, port), _Quiet)
    except OSError as error:
        log.warning(
            "no metrics: can't listen on %s:%d: %s. Free the port or set PAIRWRIGHT_TRAINER_PORT (0: none).",
            host, port, first_line(error),
        )  # fmt: skip
        return None


def _application(registry: CollectorRegistry, checks: Checks) -> Application:
    metrics: Application = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        status, body = _health(path, checks)
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(body).encode()]

    return answer


def _health(path: str, checks: Checks) -> tuple[str, dict[str, Any]]:
    if path == "/livez":
        return "200 OK", {"status": "alive"}
    if path == "/readyz":
        states = checks()
        ready = all(state.partition(";")[0] == "ok" for state in states.values())
        body = {"status": "ready" if ready else "not ready", "checks": states}
        return ("200 OK" if ready else "503 Service Unavailable"), body
    return "404 Not Found", {"title": "Not found", "detail": "There are /metrics, /livez and /readyz."}
