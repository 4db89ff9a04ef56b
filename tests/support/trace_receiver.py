"""An OTLP receiver over HTTP in the test's process: takes spans as an OpenTelemetry collector does."""

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """What the tests look at; ids in hexadecimal digits."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: frozenset[str]
    """The traces of its links."""
    attributes: dict[str, Any]


class Receiver(ThreadingHTTPServer):
    """Listens from the start; `spans` grows."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.spans: list[Span] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def named(self, name: str) -> list[Span]:
        """All spans of a name so far."""
        return [span for span in self.spans if span.name == name]

    def take(self, body: bytes) -> None:
        """Enter one export."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {
                        one.key.removeprefix("pairwright."): one.value.string_value or one.value.int_value
                        for one in span.attributes
                    }
                    links = frozenset(link.trace_id.hex() for link in span.links)
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    self.spans.append(Span(service, span.name, *ids, links, attributes))


class _Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """One export."""
        assert isinstance(self.server, Receiver)
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""
