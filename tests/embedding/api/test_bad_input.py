"""Nasty bodies get the right refusal in the right shape, and never a 5xx."""

import json
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.embedding.api.errors import STATUS
from services.embedding.serving.errors import EmbeddingError
from shared.model_store import ModelStore
from tests.support.embedding import LiveService
from tests.support.versions import publish, static_student

FIELD = {"/embed": "inputs", "/": "inputs", "/v1/embeddings": "input", "/embeddings": "input"}
PATHS = list(FIELD)

# FIELD stands for the path's own name of its inputs.
NASTY = {
    "nothing": "",
    "blank": "   ",
    "no JSON": "inputs=a",
    "cut short": '{"FIELD": "a',
    "two values": '{"FIELD": "a"} {}',
    "a null": "null",
    "a number": "7",
    "a text": '"a"',
    "a list": '["a"]',
    "no inputs": "{}",
    "inputs null": '{"FIELD": null}',
    "inputs true": '{"FIELD": true}',
    "inputs a number": '{"FIELD": 1}',
    "inputs a float": '{"FIELD": 1.5}',
    "inputs an object": '{"FIELD": {"text": "a"}}',
    "token ids": '{"FIELD": [1, 2]}',
    "lists of token ids": '{"FIELD": [[1, 2], [3]]}',
    "texts and a null": '{"FIELD": ["a", null]}',
    "texts and true": '{"FIELD": ["a", true]}',
    "texts and a number": '{"FIELD": ["a", 1]}',
    "texts and an object": '{"FIELD": ["a", {}]}',
    "NaN": '{"FIELD": NaN}',
    "NaN in a list": '{"FIELD": ["a", NaN]}',
    "NaN in a field that is ignored": '{"FIELD": "a", "other": NaN}',
    "Infinity": '{"FIELD": [Infinity]}',
    "1e999": '{"FIELD": 1e999}',
    "lone surrogate": '{"FIELD": "\\ud800"}',
    "lone surrogate in a list": '{"FIELD": ["a", "\\udfff b"]}',
    "lone surrogate as a name": '{"FIELD": "a", "\\ud800": 1}',
    "100,000 open lists": '{"FIELD": ' + "[" * 100_000,
    "10,000 nested lists": '{"FIELD": ' + "[" * 10_000 + "]" * 10_000 + "}",
    "a number of 5,000 digits": '{"FIELD": ' + "9" * 5000 + "}",
    "raw control character": '{"FIELD": "a\x01"}',
    "dimensions a text": '{"FIELD": "a", "dimensions": "16"}',
    "dimensions true": '{"FIELD": "a", "dimensions": true}',
    "dimensions a float": '{"FIELD": "a", "dimensions": 16.5}',
    "dimensions huge": '{"FIELD": "a", "dimensions": 1e30}',
    "dimensions NaN": '{"FIELD": "a", "dimensions": NaN}',
    "no inputs at all": '{"FIELD": []}',
    "an empty text": '{"FIELD": ""}',
    "an empty text among others": '{"FIELD": ["a", ""]}',
}
EMPTY = {"no inputs at all", "an empty text", "an empty text among others"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("home")
    publish(ModelStore(home / "models" / "default"), static_student(seed=1), 0)
    service = LiveService(home, max_body_bytes=300_000)
    service.wait_until_ready()
    with httpx.Client(base_url=service.url) as client:
        yield client
    service.stop()


def refused(path: str, answer: httpx.Response) -> str:
    """The message of a refusal, whose shape is checked."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    if FIELD[path] == "inputs":
        assert set(body) == {"error", "error_type"}
        message = body["error"]
    else:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["type"] == "invalid_request_error"
        message = body["error"]["message"]
    assert isinstance(message, str)
    assert message
    return message


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NASTY)
def test_nasty_bodies(client: httpx.Client, path: str, name: str) -> None:
    content = NASTY[name].replace("FIELD", FIELD[path]).encode()
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    message = refused(path, answer)
    assert len(message) < 500
    if name in EMPTY:
        assert answer.status_code == 400
        assert answer.json().get("error_type", "Empty") == "Empty"
    elif FIELD[path] == "inputs":
        assert answer.json()["error_type"] == "Validation"
    else:
        assert answer.status_code == 400


@pytest.mark.parametrize("path", PATHS)
def test_bytes_that_are_no_text(client: httpx.Client, path: str) -> None:
    refused(path, client.post(path, content=b'{"%b": "\xff\xfe"}' % FIELD[path].encode()))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_any_content_type_will_do(client: httpx.Client, path: str, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = client.post(path, content=json.dumps({FIELD[path]: "a dog"}), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(client: httpx.Client, path: str, chunked: bool) -> None:
    body = json.dumps({FIELD[path]: "a" * 400_000}).encode()
    answer = client.post(path, content=iter([body[:1000], body[1000:]]) if chunked else body)
    assert answer.status_code == 413
    refused(path, answer)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"normalize": 1}, "normalize"),
        ({"normalize": "true"}, "normalize"),
        ({"truncate": "yes"}, "truncate"),
        ({"truncation_direction": "Up"}, "truncation_direction"),
        ({"prompt_name": "query!"}, "prompt_name"),
        ({"prompt_name": 3}, "prompt_name"),
        ({"dimensions": 15}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": -16}, "dimensions"),
    ],
)
def test_wrong_fields_are_named_to_tei_clients(client: httpx.Client, fields: dict[str, object], named: str) -> None:
    answer = client.post("/embed", json={"inputs": "a"} | fields)
    assert answer.status_code == 422
    assert named in refused("/embed", answer)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"model": 3}, "model"), ({"encoding_format": "hex"}, "encoding_format"), ({"dimensions": "x"}, "dimensions")],
)
def test_wrong_fields_are_named_to_openai_clients(client: httpx.Client, fields: dict[str, object], named: str) -> None:
    answer = client.post("/v1/embeddings", json={"input": "a"} | fields)
    refused("/v1/embeddings", answer)
    assert answer.json()["error"]["param"] == named


def test_other_routes_speak_problem_json(client: httpx.Client) -> None:
    for answer in (client.get("/nothing"), client.post("/versions")):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
    assert client.get("/embed").json()["error_type"] == "Validation"
    assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"


def test_every_error_of_the_core_has_a_status() -> None:
    assert set(STATUS) == set(EmbeddingError.__subclasses__())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(PATHS),
    inputs=JSON,
    fields=st.dictionaries(
        st.sampled_from(["normalize", "truncate", "prompt_name", "dimensions", "model", "encoding_format", "x"]), JSON
    ),
)
def test_no_body_breaks_it(client: httpx.Client, path: str, inputs: object, fields: dict[str, object]) -> None:
    answer = client.post(path, content=json.dumps({FIELD[path]: inputs} | fields))
    assert answer.status_code < 500
    if answer.status_code != 200:
        refused(path, answer)


def test_valid_unicode_of_every_kind_is_embedded(client: httpx.Client) -> None:
    texts = ["\u0000", "a\u0000b", "😀 dog", "e\u0301", "\u202edog", "\U0010ffff", "﷽" * 100, "\r\n\t", "x" * 100_000]
    answer = client.post("/embed", json={"inputs": texts})
    assert answer.status_code == 200
    assert len(answer.json()) == len(texts)
