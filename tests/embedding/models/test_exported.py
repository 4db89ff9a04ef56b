"""A transformer by its export alone answers what sentence-transformers does, without it and without torch."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

from services.embedding.models.base import EncodeOptions
from services.embedding.models.exported import ExportedEncoder
from services.embedding.models.load import load
from services.embedding.models.transformer import TransformerEncoder
from services.trainer.publishing.onnx_export import add_exports
from shared.manifest import PROBE_SENTENCES, Card, Manifest
from shared.model_store import ModelStore
from tests.support.embedding import is_ready, spawn
from tests.support.ports import free_port
from tests.support.versions import DIMENSIONS, MAX_TOKENS

pytestmark = pytest.mark.slow

LONG = " ".join(["a man is playing the guitar"] * 12) + " no"
TEXTS = ["a man is playing a guitar", "", "a [SEP] dog [PAD]", LONG, "unheard words", "naïve café 你好", "yes"]


@pytest.fixture(scope="module", autouse=True)
def _speed_does_not_matter() -> Iterator[None]:
    """A model of 16 dimensions gains none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.manifest.ONNX_LEAST_SPEEDUP", 0.0)
        yield


@pytest.fixture(scope="module", params=["cls", "mean, map and length"])
def version(
    request: pytest.FixtureRequest, transformer: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Manifest]:
    """A published version with its export, and a query prompt."""
    modules = [transformer[0], Pooling(DIMENSIONS, "cls")]
    if request.param != "cls":
        matrix = torch.from_numpy(np.random.default_rng(1).standard_normal((DIMENSIONS, DIMENSIONS)).astype(np.float32))
        dense = Dense(DIMENSIONS, DIMENSIONS, bias=False, activation_function=None, init_weight=matrix)
        modules = [transformer[0], Pooling(DIMENSIONS, "mean"), dense, Normalize()]
    student = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "the house "})
    home = tmp_path_factory.mktemp("home")
    store = ModelStore(home / "models" / "default")
    with store.staging() as staged:
        student.save(str(staged), create_model_card=False)
        onnx = add_exports(staged, []).onnx
        assert onnx is not None
        assert onnx.tokenizer
        shutil.rmtree(staged / "onnx" / "model_int8.onnx", ignore_errors=True)
        card = Card(base="test", round=1, pairs=0, dimensions=DIMENSIONS, onnx=onnx, max_seq_length=MAX_TOKENS)
        manifest = store.publish(staged, card, student.encode(list(PROBE_SENTENCES)).tolist())
    return store.path(manifest.id), manifest


def both(version: tuple[Path, Manifest]) -> tuple[ExportedEncoder, TransformerEncoder]:
    """The version by its export alone, and by sentence-transformers in torch."""
    folder, manifest = version
    own = load(folder, manifest, "cpu", 1, "auto")
    theirs = load(folder, manifest, "cpu", 1, "float32", "torch")
    assert isinstance(own, ExportedEncoder)
    assert isinstance(theirs, TransformerEncoder)
    return own, theirs


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("prompt", ["", "the house "])
def test_its_vectors_are_those_of_sentence_transformers(version: tuple[Path, Manifest], side: str, prompt: str) -> None:
    own, theirs = both(version)
    options = EncodeOptions(prompt, "left" if side == "left" else "right")
    ours, others = own.tokenise(TEXTS, options), theirs.tokenise(TEXTS, options)
    assert [(one.count, one.total, one.payload) for one in ours] == [
        (one.count, one.total, one.payload) for one in others
    ]
    assert max(one.total for one in ours) > MAX_TOKENS
    np.testing.assert_allclose(own.encode(ours, options), theirs.encode(others, options), atol=1e-5)
    np.testing.assert_allclose(own.token_vectors(ours[0], options), theirs.token_vectors(others[0], options), atol=1e-5)


def test_what_it_says_of_tokens_is_the_same(version: tuple[Path, Manifest]) -> None:
    own, theirs = both(version)
    options = EncodeOptions("the house ")
    for text in (*TEXTS, LONG * 100):
        assert own.windows(text, options) == theirs.windows(text, options)
    listed = [one.list_tokens(TEXTS, "the house ", add_special_tokens=True, limit=1000) for one in (own, theirs)]
    assert listed[0] == listed[1]
    ids = [one.payload for one in own.tokenise(TEXTS, options)]
    assert own.decode(ids, skip_special_tokens=False) == theirs.decode(ids, skip_special_tokens=False)
    names = ("prompts", "default_prompt", "pooling", "max_tokens", "batch_tokens", "padded")
    assert [getattr(own, name) for name in names] == [getattr(theirs, name) for name in names]


def test_the_service_imports_neither_torch_nor_transformers(version: tuple[Path, Manifest]) -> None:
    folder, manifest = version
    port = free_port()
    home = folder.parents[3]
    with spawn(home, port) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            while not is_ready(url):
                assert process.poll() is None
            served = httpx.get(url + "/versions/current").json()
            assert (served["backend"], served["id"]) == ("onnx", manifest.id)
            assert len(httpx.post(url + "/embed", json={"inputs": TEXTS[:1]}).json()) == 1
            libraries = Path(f"/proc/{process.pid}/maps").read_text()
        finally:
            process.terminate()
    assert "onnxruntime" in libraries
    assert "libtorch" not in libraries


def test_a_version_without_the_record_is_served_by_sentence_transformers(version: tuple[Path, Manifest]) -> None:
    folder, manifest = version
    assert manifest.onnx is not None
    older = manifest.model_copy(update={"onnx": manifest.onnx.model_copy(update={"tokenizer": False})})
    served = load(folder, older, "cpu", 1, "auto")
    assert isinstance(served, TransformerEncoder)
    assert served.backend == "onnx"
