"""`/tokenize`, `/decode` and `/embed_all` are admitted, bounded and timed as `/embed` is."""

import threading

import httpx
import pytest
from sentence_transformers import SentenceTransformer

from services.embedding.serving.tokens import MAX_CHARS, MAX_NUMBERS, MAX_TOKENS
from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.embedding import Gatekeeper, LiveService
from tests.support.versions import DIMENSIONS, publish

BODIES = {
    "/tokenize": {"inputs": ["a dog", "a cat"]},
    "/decode": {"ids": [[1, 2], [3, 4]]},
    "/embed_all": {"inputs": ["a dog", "a cat"]},
}


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        ("/tokenize", {"inputs": "a " * (MAX_TOKENS + 1)}, f"at most {MAX_TOKENS} tokens"),
        ("/tokenize", {"inputs": ["a " * 1000] * (MAX_TOKENS // 1000 + 1)}, f"at most {MAX_TOKENS} tokens"),
        ("/tokenize", {"inputs": "x" * (MAX_CHARS + 1)}, f"at most {MAX_CHARS} characters"),
        ("/decode", {"ids": [1] * (MAX_TOKENS + 1)}, f"at most {MAX_TOKENS} ids"),
        ("/decode", {"ids": [[1] * 1000] * (MAX_TOKENS // 1000 + 1)}, f"at most {MAX_TOKENS} ids"),
        ("/embed_all", {"inputs": "a " * (MAX_NUMBERS // DIMENSIONS + 1)}, "at most 65536 tokens together"),
        ("/embed_all", {"inputs": "x" * (MAX_CHARS + 1)}, f"at most {MAX_CHARS} characters"),
    ],
)
def test_answers_are_bounded(service: LiveService, path: str, body: object, limit: str) -> None:
    answer = httpx.post(service.url + path, json=body, timeout=60)
    assert answer.status_code == 422
    assert limit in answer.json()["error"]
    assert len(answer.content) < 500


def test_an_answer_at_the_limit(service: LiveService) -> None:
    tokens = httpx.post(service.url + "/tokenize", json={"inputs": "a " * MAX_TOKENS}, timeout=60).json()[0]
    assert len(tokens) == MAX_TOKENS
    ids = [token["id"] for token in tokens]
    assert len(httpx.post(service.url + "/decode", json={"ids": ids}, timeout=60).json()[0]) == 2 * MAX_TOKENS - 1


@pytest.mark.parametrize("path", BODIES)
def test_they_are_refused_when_too_much_waits(
    store: ModelStore, static_one: SentenceTransformer, start: Start, path: str
) -> None:
    publish(store, static_one, 0)
    gate = Gatekeeper()
    service = start(load=gate.load, max_client_inputs=2, max_queue_inputs=2)
    gate.shut()
    asking = threading.Thread(target=httpx.post, args=(service.url + "/embed",), kwargs={"json": {"inputs": ["a"]}})
    asking.start()
    assert gate.entered.wait(30)
    refused = httpx.post(service.url + path, json=BODIES[path])
    gate.opened.set()
    asking.join()
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert httpx.post(service.url + path, json=BODIES[path]).status_code == 200


@pytest.mark.parametrize("path", BODIES)
def test_they_have_the_deadline_of_every_request(
    store: ModelStore, static_one: SentenceTransformer, start: Start, path: str
) -> None:
    publish(store, static_one, 0)
    service = start(request_seconds=1e-9)
    answer = httpx.post(service.url + path, json=BODIES[path])
    assert answer.status_code == 504
    assert answer.json()["error_type"] == "Backend"
