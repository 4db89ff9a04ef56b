"""Which prompt is put before a text: by the type of input, on every route, and what `/info` says of it."""

from typing import Any

import httpx
import numpy as np
import pytest

from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.embedding import LiveService
from tests.support.versions import publish, static_student


def embed(service: LiveService, inputs: object, path: str = "/embed", **fields: object) -> httpx.Response:
    return httpx.post(service.url + path, json={"inputs": inputs} | fields)


def test_the_input_type_chooses_the_prompt_on_every_route(store: ModelStore, start: Start) -> None:
    student = static_student(seed=1)
    student.prompts = {"query": "red ", "passage": "blue "}
    publish(store, student, 0)
    url = start().url

    def ask(path: str, **body: object) -> Any:
        return httpx.post(url + path, json=body).json()

    documents = dict.fromkeys(("document", "search_document", "passage"), "blue ")
    for kind, prompt in ({"query": "red ", "search_query": "red ", "clustering": ""} | documents).items():
        found = [
            ask("/embed", inputs="a dog", input_type=kind)[0],
            ask("/v1/embeddings", input="a dog", input_type=kind)["data"][0]["embedding"],
            ask("/v2/embed", texts=["a dog"], input_type=kind)["embeddings"]["float"][0],
            ask("/api/embed", input="a dog", input_type=kind)["embeddings"][0],
            ask("/api/embeddings", prompt="a dog", input_type=kind)["embedding"],
        ]
        expected = student.encode([prompt + "a dog"], normalize_embeddings=True)
        np.testing.assert_allclose(found, expected.repeat(len(found), axis=0), atol=1e-6)
        for path in ("/tokenize", "/embed_all"):
            assert len(ask(path, inputs="a dog", input_type=kind)[0]) == 2 + bool(prompt)
        sentences = {"source_sentence": "a dog", "sentences": ["a cat"]}
        one, other = student.encode([f"{prompt}a dog", f"{prompt}a cat"], normalize_embeddings=True)
        cosines = ask("/similarity", inputs=sentences, parameters={"input_type": kind})
        assert cosines == [pytest.approx(float(one @ other), abs=1e-6)]


def test_info_lists_prompts_and_the_types_that_choose_them(store: ModelStore, start: Start) -> None:
    student = static_student(seed=1)
    student.prompts, student.default_prompt_name = {"query": "red ", "passage": "blue "}, "passage"
    publish(store, student, 0)
    info = httpx.get(start().url + "/info").json()
    assert info["prompts"] == {"query": "red ", "passage": "blue ", "document": ""}
    assert info["default_prompt"] == "blue "
    queries = dict.fromkeys(("query", "search_query"), "query")
    assert info["input_types"] == queries | dict.fromkeys(("document", "search_document", "passage"), "passage")


@pytest.mark.parametrize("path", ["/embed", "/tokenize"])
def test_one_of_prompt_name_and_input_type(service: LiveService, path: str) -> None:
    answer = embed(service, "a dog", path, prompt_name="query", input_type="query")
    assert answer.status_code == 422
    assert "`prompt_name` and `input_type`" in answer.json()["error"]
    assert embed(service, "a dog", path, input_type="image").status_code == 422
