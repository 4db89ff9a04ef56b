"""A static student by NumPy alone answers what sentence-transformers does, without it and without torch."""

from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from services.embedding.models.base import EncodeOptions, Encoder
from services.embedding.models.load import load
from services.embedding.models.static import ROWS, TOGETHER, StaticEncoder
from shared.manifest import Card
from shared.model_store import ModelStore
from tests.support.embedding import is_ready, spawn
from tests.support.ports import free_port
from tests.support.students import DIMENSIONS, write_static
from tests.support.versions import publish

TEXTS = ["a man is playing a guitar", "", "a [SEP] dog", "a dog " * ROWS, "unheard words", "yes"]
MANY = TEXTS + [" ".join(["a man is playing the guitar"] * (number % 12)) for number in range(3 * TOGETHER)]


@pytest.fixture
def static_student(tmp_path: Path) -> SentenceTransformer:
    write_static(tmp_path / "student")
    return SentenceTransformer(str(tmp_path / "student"), device="cpu", prompts={"query": "a "})


def published(home: Path, student: SentenceTransformer) -> Encoder:
    store = ModelStore(home / "models" / "default")
    with store.staging() as staged:
        student.save(str(staged), create_model_card=False)
        card = Card(base="test", round=1, pairs=0, dimensions=DIMENSIONS)
        manifest = store.publish(staged, card, [[0.0] * DIMENSIONS])
    return load(store.path(manifest.id), manifest, "cpu", 1, "auto")


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "with another module"])
def test_its_vectors_are_those_of_sentence_transformers(
    static_student: SentenceTransformer, kind: str, tmp_path: Path
) -> None:
    student = static_student
    if kind == "with another module":
        student = SentenceTransformer(modules=[student[0], Normalize()], device="cpu", prompts={"query": "a "})
    else:
        student.to(getattr(torch, kind))
    own = published(tmp_path, student)
    assert isinstance(own, StaticEncoder)
    for prompt in ("", "a "):
        options = EncodeOptions(prompt)
        for texts in (TEXTS, MANY):
            vectors = own.encode(own.tokenise(texts, options), options)
            assert vectors.dtype == np.float32
            expected = student.float().encode(texts, prompt=prompt)
            np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
        alone = own.encode(own.tokenise(MANY[-1:], options), options)
        np.testing.assert_array_equal(alone[0], vectors[-1], "whatever else is in the batch")
    tokens = own.tokenise(["a dog"], EncodeOptions())[0]
    np.testing.assert_allclose(
        own.token_vectors(tokens, EncodeOptions()), student[0].embedding.weight.detach()[tokens.payload]
    )


@pytest.mark.slow
def test_the_service_imports_no_torch(static_student: SentenceTransformer, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models" / "default")
    publish(store, static_student, 0)
    port = free_port()
    with spawn(tmp_path, port) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            while not is_ready(url):
                assert process.poll() is None
            assert httpx.get(url + "/versions/current").json()["backend"] == "static"
            libraries = Path(f"/proc/{process.pid}/maps").read_text()
        finally:
            process.terminate()
    assert "numpy" in libraries
    assert "libtorch" not in libraries
