"""Files of texts that are embedded in the background."""

import base64
import gzip
import io
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pyarrow import parquet
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.embedding import Gatekeeper, LiveService
from tests.support.versions import DIMENSIONS, WORDS, publish, static_student

TEXTS = [" ".join(WORDS[start : start + 1 + start % 9]) for start in range(len(WORDS))] * 5


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def submit(service: LiveService, content: bytes, headers: dict[str, str] | None = None, **query: str | int) -> Any:
    """The batch, once it has ended."""
    answer = httpx.post(service.url + "/batches", content=content, headers=headers, params=query)
    assert answer.status_code == 202, answer.text
    url = service.url + answer.headers["location"]
    service.wait_until(lambda: httpx.get(url).json()["state"] != "open", "the batch ends")
    return httpx.get(url).json()


def result(service: LiveService, batch: Any, **query: str | int) -> bytes:
    answer = httpx.get(f"{service.url}/batches/{batch['id']}/result", params=query)
    assert answer.status_code == 200, answer.text
    return answer.content


def rows_of(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.splitlines()]


def left_over(home: Path) -> list[Path]:
    return list((home / "batches" / "default").iterdir())


def test_texts_in_vectors_out_in_order(service: LiveService, static_one: SentenceTransformer) -> None:
    batch = submit(service, as_lines([{"id": number, "text": text} for number, text in enumerate(TEXTS)]))
    assert (batch["state"], batch["lines"], batch["texts"], batch["done"]) == ("done", *[len(TEXTS)] * 3)
    expected = static_one.encode(TEXTS, normalize_embeddings=True)
    rows = rows_of(result(service, batch))
    assert [(row["line"], row["id"]) for row in rows] == [(place + 1, str(place)) for place in range(len(TEXTS))]
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-6)
    table = parquet.read_table(io.BytesIO(result(service, batch, format="parquet")))
    assert table["line"].to_pylist() == list(range(1, len(TEXTS) + 1))
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    np.testing.assert_allclose(table["embedding"].to_pylist(), expected, atol=1e-6)
    bits = parquet.read_table(io.BytesIO(result(service, batch, format="parquet", output_dtype="ubinary")))
    assert np.array_equal(bits["embedding"].to_pylist(), quantize_embeddings(expected, "ubinary"))
    int8 = httpx.post(service.url + "/embed", json={"inputs": TEXTS[:3], "output_dtype": "int8"}).json()
    assert [row["embedding"] for row in rows_of(result(service, batch, output_dtype="int8"))[:3]] == int8
    assert batch in httpx.get(service.url + "/batches").json()["batches"]


def test_compressed_bare_texts(service: LiveService, static_one: SentenceTransformer) -> None:
    content = b"\xef\xbb\xbf" + as_lines(["a dog"]) + b"\n" + as_lines(["a cat"]).rstrip()
    batch = submit(service, gzip.compress(content), {"content-encoding": "gzip"})
    rows = rows_of(result(service, batch))
    assert [list(row) for row in rows] == [["line", "embedding"]] * 2
    expected = static_one.encode(["a dog", "a cat"], normalize_embeddings=True)
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-6)


@pytest.mark.parametrize("encoding", [None, "base64"])
def test_openais_batch_file(service: LiveService, static_one: SentenceTransformer, encoding: str | None) -> None:
    inputs: list[Any] = ["a dog", ["a cat", "a man"], "a river"]
    body = {"model": "current"} | ({} if encoding is None else {"encoding_format": encoding})
    line = {"method": "POST", "url": "/v1/embeddings"}
    lines = [line | {"custom_id": f"c{n}", "body": body | {"input": one}} for n, one in enumerate(inputs)]
    batch = submit(service, as_lines(lines))
    assert (batch["lines"], batch["texts"]) == (3, 4)
    for row, one in zip(rows_of(result(service, batch)), inputs, strict=True):
        asked = httpx.post(service.url + "/v1/embeddings", json=body | {"input": one}).json()
        assert (row["custom_id"], row["error"]) == (f"c{inputs.index(one)}", None)
        assert row["response"]["status_code"] == 200
        answer = row["response"]["body"]
        assert (answer["model"], answer["usage"], answer["object"]) == (batch["version"], asked["usage"], "list")
        texts = one if isinstance(one, list) else [one]
        vectors = [item["embedding"] for item in answer["data"]]
        if encoding == "base64":
            vectors = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in vectors]
        np.testing.assert_allclose(vectors, static_one.encode(texts, normalize_embeddings=True), atol=1e-6)
    table = parquet.read_table(io.BytesIO(result(service, batch, format="parquet")))
    assert table.select(["id", "index"]).to_pylist() == [
        {"id": "c0", "index": 0}, {"id": "c1", "index": 0}, {"id": "c1", "index": 1}, {"id": "c2", "index": 0}
    ]  # fmt: skip


OPENAI = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings"}


@pytest.mark.parametrize(
    ("lines", "query", "message"),
    [
        ([], {}, "holds no line"),
        (["a", ""], {}, "line 2: holds no text"),
        (["a", 3], {}, "line 2: must be a text"),
        ([{"text": "a", "txt": "b"}], {}, "line 1: txt: unknown field"),
        ([{"id": "a"}], {}, "line 1: text must be a text"),
        (["a", {"text": "b"}, OPENAI | {"body": {"input": "c"}}], {}, "line 3: the lines before are of another form"),
        ([OPENAI | {"body": {"input": "a", "dim": 3}}], {}, "line 1: body.dim: unknown field"),
        ([OPENAI | {"url": "/v1/chat/completions", "body": {"input": "a"}}], {}, "line 1: url: "),
        ([OPENAI | {"body": {"input": "a", "chunk": True}}], {}, "line 1: body.chunk: can't be asked for"),
        ([OPENAI | {"body": {"input": [1, 2]}}], {}, "line 1: body.input: token ids"),
        (
            [OPENAI | {"body": {"input": "a", "dimensions": n}} for n in (DIMENSIONS, 8)], {},
            "line 2: body.dimensions: must be the same",
        ),
        ([OPENAI | {"body": {"input": "a"}}], {"input_type": "query"}, "input_type: the lines of OpenAI's form"),
        (["a"], {"dimensions": 3}, "`dimensions` 3"),
        (["a"], {"prompt_name": "x"}, "Available prompts"),
        (["a"], {"input_type": "image"}, "input_type"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_as_a_whole(
    service: LiveService, lines: list[Any], query: dict[str, str | int], message: str
) -> None:
    before = httpx.get(service.url + "/batches").json()
    answer = httpx.post(service.url + "/batches", content=as_lines(lines), params=query)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert httpx.get(service.url + "/batches").json() == before


def test_bytes_that_are_no_json(service: LiveService) -> None:
    for content in (b'"a"\n{"text": "b"', b'"\\ud800"\n', b'"a\xff"\n'):
        answer = httpx.post(service.url + "/batches", content=content)
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("line ")
    assert httpx.post(service.url + "/batches?model=r000009-00000000", content=b'"a"').status_code == 404


def test_disk_and_memory_are_bounded(tmp_path: Path, store: ModelStore, start: Start) -> None:
    publish(store, static_student(seed=1), 0)
    service = start(max_body_bytes=2000, max_batch_bytes=2_000_000, batches_mib=1)
    long_line = httpx.post(service.url + "/batches", content=as_lines(["a dog " * 50_000]))
    assert (long_line.status_code, long_line.json()["detail"]) == (422, "line 1: is longer than 2000 bytes")
    assert submit(service, as_lines(["a dog"] * 1000))["state"] == "done", "more than a body may have"
    too_large = httpx.post(service.url + "/batches", content=as_lines(["a dog"] * 260_000))
    assert too_large.status_code == 413
    for count in (12_000, 120_000):  # its vectors are too much, and its texts are
        full = httpx.post(service.url + "/batches", content=as_lines(["a dog"] * count))
        assert full.status_code == 429
        assert "Batches may take 1 MiB" in full.json()["detail"]
    assert len(left_over(tmp_path)) == 1


def test_requests_go_first(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    gate = Gatekeeper()
    publish(store, static_one, 0)
    service = start(load=gate.load)
    gate.shut()
    asking = threading.Thread(target=lambda: httpx.post(service.url + "/embed", json={"inputs": "a dog"}, timeout=120))
    asking.start()
    assert gate.entered.wait(60)
    url = service.url + httpx.post(service.url + "/batches", content=as_lines(TEXTS)).headers["location"]
    assert httpx.post(service.url + "/versions/reload").status_code == 200  # time for a batch to be begun
    batch = httpx.get(url).json()
    assert (batch["state"], batch["done"]) == ("open", 0)
    answer = httpx.get(url + "/result")
    assert (answer.status_code, answer.json()["title"]) == (409, "Not done")
    gate.opened.set()
    asking.join()
    service.wait_until(lambda: httpx.get(url).json()["state"] == "done", "the batch is done")


def test_a_batch_keeps_its_version(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    old, new = publish(store, static_one, 0).id, publish(store, static_student(seed=2), 1).id
    service = start()
    batch = submit(service, as_lines(["a dog"]), model="previous")
    assert batch["version"] == old
    row = rows_of(result(service, batch))[0]
    np.testing.assert_allclose(row["embedding"], static_one.encode("a dog", normalize_embeddings=True), atol=1e-6)
    assert submit(service, as_lines(["a dog"]))["version"] == new


def test_cancelled_and_deleted(
    tmp_path: Path, store: ModelStore, static_one: SentenceTransformer, start: Start
) -> None:
    gate = Gatekeeper()
    publish(store, static_one, 0)
    service = start(load=gate.load)
    done = submit(service, as_lines(["a dog"]))
    gate.shut()
    asking = threading.Thread(target=lambda: httpx.post(service.url + "/embed", json={"inputs": "a dog"}, timeout=120))
    asking.start()
    assert gate.entered.wait(60)
    url = service.url + httpx.post(service.url + "/batches", content=as_lines(TEXTS)).headers["location"]
    assert httpx.delete(url).json()["state"] == "open"
    assert httpx.delete(f"{service.url}/batches/{done['id']}").json()["state"] == "done"
    gate.opened.set()
    asking.join()
    for gone in (url, f"{service.url}/batches/{done['id']}", service.url + "/batches/..%2f..%2fmodels"):
        assert httpx.get(gone).status_code == httpx.delete(gone).status_code == 404
    assert submit(service, as_lines(["a dog"]))["state"] == "done", "the next one isn't held up"
    assert len(left_over(tmp_path)) == 1


def test_keys(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    publish(store, static_one, 0)
    service = start(api_keys="secret")
    assert httpx.post(service.url + "/batches", content=b'"a"').status_code == 401
    assert httpx.get(service.url + "/batches").status_code == 401
