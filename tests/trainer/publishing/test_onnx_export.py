"""A transformer's exports, on a real small one: measured, kept only when they are true, never in a round's way."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from sentence_transformers import SentenceTransformer

from services.trainer.publishing import onnx_export
from services.trainer.publishing.onnx_export import EXACT, INT8, Exports, add_exports
from shared.manifest import PROBE_SENTENCES, Int8, OnnxExport
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


@pytest.fixture(autouse=True)
def _speed_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 16 dimensions gains none; these tests are about truth."""
    for name in ("INT8_LEAST_SPEEDUP", "ONNX_LEAST_SPEEDUP"):
        monkeypatch.setattr(f"shared.manifest.{name}", 0.0)


def vectors(file: Path, student: SentenceTransformer) -> npt.NDArray[np.float32]:
    """Of the probe, by the export in `file`: this student answers with the first token's."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    features = student.preprocess(list(PROBE_SENTENCES))
    inputs = {name: features[name].numpy() for name in ("input_ids", "attention_mask")}
    return np.asarray(session.run(None, inputs)[0])[:, 0]


def test_the_records_are_what_the_files_do(folder: Path, student: SentenceTransformer) -> None:
    exported, record = add_exports(folder, DEV)
    assert exported is not None
    assert exported.file == EXACT
    exact = student.encode(list(PROBE_SENTENCES))
    np.testing.assert_allclose(vectors(folder / EXACT, student), exact, atol=1e-5)
    assert 0 < exported.difference < 1e-5
    assert min(exported.speedup, exported.single_speedup) > 0

    assert record is not None
    assert record.file == INT8
    first = vectors(folder / INT8, student)
    cosines = (first * exact).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(exact, axis=1)
    assert record.cosine == pytest.approx(cosines.min(), abs=2e-3)  # other batches, other rounding
    assert 0.99 <= record.cosine < 1
    assert record.dev_cosine is not None
    assert record.dev_cosine >= 0.99
    assert not list(folder.parent.glob(".staging-*"))


def test_an_export_that_is_not_true_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.manifest.INT8_LEAST_COSINE", 1.1)
    exact, int8 = add_exports(folder, DEV)
    assert exact is not None
    assert int8 is None
    assert [file.name for file in (folder / "onnx").iterdir()] == [Path(EXACT).name]


def test_without_any_export_nothing_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.manifest.INT8_LEAST_COSINE", 1.1)
    monkeypatch.setattr("shared.manifest.PROBE_TOLERANCE", -1.0)
    before = sorted(folder.rglob("*"))
    assert add_exports(folder, DEV) == Exports()
    assert sorted(folder.rglob("*")) == before


def test_an_export_that_fails_costs_the_round_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx_export, "DEV_SENTENCES", "no number")
    assert add_exports(folder, DEV) == Exports()
    assert "an export failed" in caplog.text
    assert not (folder / "onnx").exists()


def test_a_static_student_has_none(tmp_path: Path) -> None:
    static_student(1).save(str(tmp_path), create_model_card=False)
    assert add_exports(tmp_path, DEV) == Exports()
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
def test_what_a_record_must_say(change: dict[str, float | None], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.manifest.INT8_LEAST_SPEEDUP", 1.1)
    good = {"file": INT8, "cosine": 0.995, "dev_cosine": 0.995, "dev_exact": 80.0, "dev_int8": 79.8, "speedup": 1.5}
    record = Int8.model_validate(good | change)
    assert said in record.verdict
    assert bool(record.verdict) == bool(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"difference": 0.002}, "off by 0.002"),
        ({"difference": float("nan")}, "off by nan"),
        ({"speedup": 0.9}, "0.90 and 2.00 times as fast"),
        ({"single_speedup": 0.9}, "1.20 and 0.90 times as fast"),
    ],
)
def test_what_an_exact_record_must_say(change: dict[str, float], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.manifest.ONNX_LEAST_SPEEDUP", 1.0)
    good = {"file": EXACT, "difference": 1e-6, "speedup": 1.2, "single_speedup": 2.0}
    record = OnnxExport.model_validate(good | change)
    assert said in record.verdict
    assert bool(record.verdict) == bool(said)


def test_records_are_part_of_the_manifest(tmp_path: Path, student: SentenceTransformer) -> None:
    store, record = ModelStore(tmp_path), Int8(file=INT8, cosine=0.995, speedup=2.0)
    exact = OnnxExport(file=EXACT, difference=1e-6, speedup=1.2, single_speedup=2.0)
    manifest = store.verify(publish(store, student, 0, int8=record, onnx=exact).id)
    assert (manifest.onnx, manifest.int8) == (exact, record)
