"""The OpenAPI document and the running service agree, whatever is sent: schemathesis asks."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from shared.model_store import ModelStore
from tests.support.embedding import LiveService
from tests.support.versions import publish, static_student


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    home = tmp_path_factory.mktemp("home")
    store = ModelStore(home / "models" / "default")
    for seed in range(2):
        publish(store, static_student(seed), seed)
    service = LiveService(home, max_body_bytes=300_000)
    service.wait_until_ready()
    yield service
    service.stop()


OPERATIONS = [
    ("get", "/api/tags"), ("get", "/api/version"),
    ("get", "/batches"), ("get", "/batches/{id}"), ("delete", "/batches/{id}"), ("get", "/batches/{id}/result"),
    ("get", "/health"), ("get", "/info"), ("get", "/livez"), ("get", "/metrics"), ("get", "/readyz"),
    ("get", "/v1/models"), ("get", "/v1/models/{model}"), ("get", "/versions"), ("get", "/versions/{id}"),
    ("post", "/api/embed"), ("post", "/api/embeddings"), ("post", "/decode"), ("post", "/embed"),
    ("post", "/embed_all"), ("post", "/rerank"), ("post", "/similarity"), ("post", "/tokenize"),
    ("post", "/v1/embeddings"), ("post", "/v2/embed"),
    ("post", "/batches"), ("post", "/versions/reload"), ("post", "/versions/{id}/activate"),
    ("post", "/versions/{id}/pin"), ("delete", "/versions/pin"), ("post", "/compare"),
]  # fmt: skip


OWN = {"/batches", "/versions/reload", "/versions/{id}/activate", "/versions/{id}/pin"}  # with no JSON body
WITH_BODY = {(method, path) for method, path in OPERATIONS if method == "post" and path not in OWN}
# Without a body there is nothing to ask wrongly: any text is a version's name.
ASKED = [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS] + [
    (method, path, GenerationMode.NEGATIVE) for method, path in OPERATIONS if (method, path) in WITH_BODY
]


@schemathesis.serializer("application/x-ndjson")
def _json_lines(_context: Any, value: Any) -> bytes:
    """Of a file, which the schema says is text."""
    return str(value).encode()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path", "mode"), ASKED)
def test_the_service_keeps_its_contract(service: LiveService, method: str, path: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_url(service.url + "/openapi.json")[path][method]
    strategy = operation.as_strategy(generation_mode=mode)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=strategy)
    def ask(case: schemathesis.Case[Any]) -> None:
        # Left out: what the schema can't say. A text may be empty in JSON but not to a model, and a version's id is
        # published or not.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    ask()


def test_the_document_has_examples_and_the_version_header(service: LiveService) -> None:
    paths = httpx.get(service.url + "/openapi.json").json()["paths"]
    for _, path in WITH_BODY:
        described = paths[path]["post"]
        example = described["requestBody"]["content"]["application/json"]["example"]
        assert httpx.post(service.url + path, json=example).status_code == 200, path
        names = [parameter["name"] for parameter in described.get("parameters", [])]
        assert names == ([] if path == "/compare" else ["x-pairwright-version"]), "it names two in its body"
        assert "x-pairwright-version" in described["responses"]["200"]["headers"]


def test_every_route_is_described(service: LiveService) -> None:
    paths = httpx.get(service.url + "/openapi.json").json()["paths"]
    assert {(method, path) for path, methods in paths.items() for method in methods} == set(OPERATIONS)
