"""Batches on disk: what a crash leaves, who computes one, what is tidied away; and a service that is killed."""

import json
import os
import random
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from services.embedding.serving.batch_store import Batch, BatchStore, NoBatch, Records, new_batch
from shared.model_store import ModelStore
from tests.support.embedding import LiveService, is_ready, spawn
from tests.support.ports import free_port
from tests.support.versions import WORDS, publish

TEXTS = ["one", "two", "three"]


@pytest.fixture
def batches(tmp_path: Path) -> BatchStore:
    return BatchStore(tmp_path, 1 << 30, keep_s=3600)


def submitted(batches: BatchStore) -> Batch:
    with batches.upload() as folder:
        (folder / "lines.jsonl").write_text("".join(json.dumps([None, [text]]) + "\n" for text in TEXTS))
        batch = new_batch(3, 3, form="lines", version="r000000-00000000", dimensions=4)
        return batches.submit(folder, batch)


def records(batch: Batch, count: int) -> Records:
    made = np.zeros(count, batch.record)
    made["vector"] = np.arange(count)[:, None]
    return made


def test_a_torn_record_is_computed_again(batches: BatchStore, tmp_path: Path) -> None:
    batch = submitted(batches)
    batches.append(batch, records(batch, 2))
    os.truncate(tmp_path / batch.id / "vectors", 2 * batch.record.itemsize - 3)
    assert batches.get(batch.id).done == batches.resume(batch) == 1
    assert list(batches.texts(batch, 1)) == ["two", "three"]
    batches.append(batch, records(batch, 3)[1:])
    batches.finish(batch)
    assert [row["vector"][0][0] for _, row in batches.results(batch)] == [0, 1, 2]
    assert batches.get(batch.id).state == "done"


def test_one_process_computes_a_batch(batches: BatchStore, tmp_path: Path) -> None:
    batch, others = submitted(batches), BatchStore(tmp_path, 1 << 30, keep_s=3600)
    with batches.claim(batch) as is_ours, others.claim(batch) as is_theirs:
        assert (is_ours, is_theirs) == (True, False)
    with others.claim(batch) as is_theirs:
        assert is_theirs
    others.delete(batch.id)
    with batches.claim(batch) as is_ours:
        assert not is_ours
    with pytest.raises(NoBatch):
        batches.append(batch, records(batch, 1))
    batches.finish(batch)
    assert batches.all() == []


def test_what_is_old_is_tidied_away(batches: BatchStore, tmp_path: Path) -> None:
    old, young, waiting = (submitted(batches) for _ in range(3))
    for batch in (old, young):
        batches.finish(batch)
    file = tmp_path / old.id / "batch.json"
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"finished": long_ago.isoformat()}))
    for name, age in ((".upload-left-over", 7200), (".upload-under-way", 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    batches.tidy()
    assert [batch.id for batch in batches.all()] == [young.id, waiting.id]
    assert [path.name for path in tmp_path.glob(".upload-*")] == [".upload-under-way"]


def serve(home: Path) -> tuple["subprocess.Popen[str]", str]:
    """A service of its own, once it is ready."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = spawn(home, port, PAIRWRIGHT_EMBEDDING_PRECISION="float32")
    LiveService.wait_until(lambda: is_ready(url), "it is ready")
    return process, url


def wait_for_more(batch: str) -> None:
    """Until more texts are done than now, but not all."""
    before = httpx.get(batch).json()["done"]
    LiveService.wait_until(lambda: httpx.get(batch).json()["done"] > before, "it goes on")
    assert httpx.get(batch).json()["state"] == "open"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_services_lose_and_double_nothing(
    tmp_path: Path, store: ModelStore, transformer: SentenceTransformer
) -> None:
    publish(store, transformer, 0)
    texts = [" ".join(random.Random(n).choices(WORDS, k=1 + n % 20)) + f" {n}" for n in range(8_000)]
    content = "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts))
    process, url = serve(tmp_path)
    batch = httpx.post(url + "/batches", content=content).headers["location"]
    for _ in range(2):
        wait_for_more(url + batch)
        process.kill()
        process.wait()
        process, url = serve(tmp_path)
    LiveService.wait_until(lambda: httpx.get(url + batch).json()["state"] == "done", "the batch is done")
    rows = [json.loads(line) for line in httpx.get(url + batch + "/result", timeout=60).text.splitlines()]
    process.kill()
    process.wait()
    assert [row["id"] for row in rows] == [str(n) for n in range(len(texts))]
    expected = transformer.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
