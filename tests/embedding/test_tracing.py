"""Traces reach a collector when the environment asks for them: the real process, the real exporter."""

from pathlib import Path

import httpx
import pytest
from sentence_transformers import SentenceTransformer

from shared.model_store import ModelStore
from tests.support.embedding import LiveService, is_ready, spawn
from tests.support.ports import free_port
from tests.support.trace_receiver import Receiver
from tests.support.versions import publish

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.slow
def test_a_request_is_one_trace_with_its_stages(
    tmp_path: Path, store: ModelStore, static_one: SentenceTransformer
) -> None:
    version = publish(store, static_one, 0).id
    receiver, port = Receiver(), free_port()
    process = spawn(tmp_path, port, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    url = f"http://127.0.0.1:{port}"
    LiveService.wait_until(lambda: is_ready(url), "the process is ready")
    answer = httpx.post(
        url + "/embed", json={"inputs": ["a dog", "a cat"]}, headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    )
    assert answer.status_code == 200
    process.terminate()  # what wasn't sent yet is sent before the end
    assert process.wait(30) == 0
    receiver.shutdown()
    spans = {span.name: span for span in receiver.spans}
    assert set(spans) == {"POST /embed", "encode"}, "health checks aren't traced"
    assert {(span.service, span.trace) for span in spans.values()} == {("pairwright-embedding", TRACE)}
    assert spans["encode"].parent == spans["POST /embed"].id
    assert (spans["encode"].attributes["version"], spans["encode"].attributes["inputs"]) == (version, 2)
