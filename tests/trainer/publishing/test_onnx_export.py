"""The int8 export, on a real small transformer: measured, kept only when it is true, never in a round's way."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from sentence_transformers import SentenceTransformer

from services.trainer.publishing import onnx_export
from services.trainer.publishing.onnx_export import FILE, add_int8
from shared.manifest import PROBE_SENTENCES, Int8
from shared.model_store import ModelStore
from tests.support.versions import publish, static_student, transformer_student

pytestmark = pytest.mark.slow

TEXTS = ["a man is playing a guitar", "the stock market fell", "no", "red green blue house river"]
DEV = list(zip(TEXTS, reversed(TEXTS), (0.0, 1.0, 0.5, 0.0), strict=True))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return transformer_student(tmp_path_factory.mktemp("parts"), seed=3)


@pytest.fixture
def folder(tmp_path: Path, student: SentenceTransformer) -> Path:
    folder = tmp_path / "version"
    student.save(str(folder), create_model_card=False)
    return folder


def test_the_record_is_what_the_file_does(
    folder: Path, student: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model of 16 dimensions gains no speed from int8; this test is about truth.
    monkeypatch.setattr("shared.manifest.INT8_LEAST_SPEEDUP", 0.0)
    record = add_int8(folder, DEV)
    assert record is not None
    assert record.file == FILE
    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    features = student.preprocess(list(PROBE_SENTENCES))
    tokens = session.run(None, {name: features[name].numpy() for name in ("input_ids", "attention_mask")})[0]
    first, exact = tokens[:, 0], student.encode(list(PROBE_SENTENCES))  # this student answers with the first token
    cosines = (first * exact).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(exact, axis=1)
    assert record.cosine == pytest.approx(cosines.min(), abs=2e-3)  # other batches, other rounding
    assert 0.99 <= record.cosine < 1
    assert record.dev_cosine is not None
    assert record.dev_cosine >= 0.99
    assert not list(folder.parent.glob(".staging-*"))


def test_a_copy_that_is_not_true_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.manifest.INT8_LEAST_COSINE", 1.1)
    before = sorted(folder.rglob("*"))
    assert add_int8(folder, DEV) is None
    assert sorted(folder.rglob("*")) == before


def test_an_export_that_fails_costs_the_round_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx_export, "DEV_SENTENCES", "no number")
    assert add_int8(folder, DEV) is None
    assert "no int8 export" in caplog.text
    assert not (folder / "onnx").exists()


def test_a_static_student_has_none(tmp_path: Path) -> None:
    static_student(1).save(str(tmp_path), create_model_card=False)
    assert add_int8(tmp_path, DEV) is None
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"cosine": 0.98}, "cosine"),
        ({"cosine": float("nan")}, "cosine"),
        ({"dev_cosine": 0.98}, "cosine"),
        ({"dev_int8": 79.4}, "0.60 points"),
        ({"dev_int8": 80.6}, "0.60 points"),
        ({"dev_exact": None, "dev_int8": None}, ""),
        ({"speedup": 1.0}, "1.00 times as fast"),
    ],
)
def test_what_a_record_must_say(change: dict[str, float | None], said: str) -> None:
    good = {"file": FILE, "cosine": 0.995, "dev_cosine": 0.995, "dev_exact": 80.0, "dev_int8": 79.8, "speedup": 1.5}
    record = Int8.model_validate(good | change)
    assert said in record.verdict
    assert bool(record.verdict) == bool(said)


def test_a_record_is_part_of_the_manifest(tmp_path: Path, student: SentenceTransformer) -> None:
    store, record = ModelStore(tmp_path), Int8(file=FILE, cosine=0.995, speedup=2.0)
    manifest = publish(store, student, 0, int8=record)
    assert store.verify(manifest.id).int8 == record
