"""Traces reach a collector when the environment asks for them: the real process, the real exporter."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sentence_transformers import SentenceTransformer

from shared.model_store import ModelStore
from tests.embedding.test_service import spawn
from tests.support.embedding import LiveService
from tests.support.ports import free_port
from tests.support.versions import publish

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(HTTPServer):
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Take)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        assert self.path == "/v1/traces"
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_request_is_one_trace_with_its_stages(
    tmp_path: Path, store: ModelStore, static_one: SentenceTransformer
) -> None:
    version = publish(store, static_one, 0).id
    collector, port = Collector(), free_port()
    process = spawn(
        tmp_path, port, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_port}",
        OTEL_EXPORTER_OTLP_COMPRESSION="none",
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(url + "/readyz").status_code == 200
        except httpx.ConnectError:
            return False

    LiveService.wait_until(ready, "the process is ready")
    answer = httpx.post(
        url + "/embed", json={"inputs": ["a dog", "a cat"]}, headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    )
    assert answer.status_code == 200
    process.terminate()  # what wasn't sent yet is sent before the end
    assert process.wait(30) == 0
    collector.shutdown()
    resources = [one for body in collector.bodies for one in ExportTraceServiceRequest.FromString(body).resource_spans]
    names = {attribute.value.string_value for one in resources for attribute in one.resource.attributes}
    assert "pairwright-embedding" in names
    spans = {span.name: span for one in resources for scope in one.scope_spans for span in scope.spans}
    assert set(spans) == {"POST /embed", "encode"}, "health checks aren't traced"
    assert all(span.trace_id.hex() == TRACE for span in spans.values())
    assert spans["encode"].parent_span_id == spans["POST /embed"].span_id
    attributes = {attribute.key: attribute.value for attribute in spans["encode"].attributes}
    assert attributes["pairwright.version"].string_value == version
    assert attributes["pairwright.inputs"].int_value == 2
