"""Less precision only where it is true: what serves, what it says of itself, and how far its vectors are off."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sentence_transformers import SentenceTransformer

from services.trainer.publishing.onnx_export import Exports, add_exports
from shared.manifest import PROBE_SENTENCES, Card, Int8, Manifest
from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.embedding import LiveService
from tests.support.versions import DIMENSIONS, publish, transformer_student

TEXTS = ["a man is playing a guitar", "a dog", "the stock market fell sharply on monday", "no"]


@pytest.fixture(scope="module", autouse=True)
def _speed_does_not_matter() -> Iterator[None]:
    """A model of 16 dimensions gains none."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("INT8_LEAST_SPEEDUP", "ONNX_LEAST_SPEEDUP"):
            patch.setattr(f"shared.manifest.{name}", 0.0)
        yield


@pytest.fixture(scope="module")
def exported(transformer: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exports]:
    """The transformer's folder with its exports, which take seconds to make, and their records."""
    folder = tmp_path_factory.mktemp("exports") / "version"
    transformer.save(str(folder), create_model_card=False)
    return folder, add_exports(folder, [])


@pytest.fixture
def int8_export(exported: tuple[Path, Exports]) -> tuple[Path, Int8]:
    """The folder, and the int8 export's record."""
    folder, records = exported
    assert records.int8 is not None
    return folder, records.int8


def publish_with_int8(
    store: ModelStore, student: SentenceTransformer, export: tuple[Path, Int8], **changes: float
) -> Manifest:
    """As the trainer does; the record's fields may be changed afterwards."""
    with store.staging() as folder:
        shutil.copytree(export[0], folder, dirs_exist_ok=True)
        card = Card(base="test", round=1, pairs=0, dimensions=DIMENSIONS, int8=export[1].model_copy(update=changes))
        return store.publish(folder, card, student.encode(list(PROBE_SENTENCES)).tolist())


def serving(service: LiveService) -> tuple[str, str]:
    version = httpx.get(service.url + "/versions/current").json()
    assert httpx.get(service.url + "/info").json()["model_dtype"] == version["precision"]
    return version["backend"], version["precision"]


def off(service: LiveService, student: SentenceTransformer) -> float:
    vectors = httpx.post(service.url + "/embed", json={"inputs": TEXTS}).json()
    return float((vectors * student.encode(TEXTS, normalize_embeddings=True)).sum(1).min())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_int8_serves_where_its_record_holds(
    store: ModelStore, transformer: SentenceTransformer, int8_export: tuple[Path, Int8], start: Start, precision: str
) -> None:
    publish_with_int8(store, transformer, int8_export)
    service = start(precision=precision, device="cpu")
    assert serving(service) == ("onnx", "int8")
    assert 0.99 <= off(service, transformer) < 0.9999999


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_int8_does_not_serve_where_its_record_does_not_hold(
    store: ModelStore, transformer: SentenceTransformer, int8_export: tuple[Path, Int8], start: Start, precision: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    publish_with_int8(store, transformer, int8_export, cosine=0.98)
    service = start(precision=precision, device="cpu")
    assert serving(service) == ("torch", "float32")
    assert off(service, transformer) > 0.99999
    if precision == "int8":
        assert "its cosine to the exact model is 0.9800" in caplog.text


def publish_with_onnx(
    store: ModelStore, student: SentenceTransformer, exported: tuple[Path, Exports], **changes: float
) -> Manifest:
    """As the trainer does; the exact export's record may be changed afterwards."""
    folder, records = exported
    assert records.onnx is not None
    with store.staging() as staged:
        shutil.copytree(folder, staged, dirs_exist_ok=True)
        onnx = records.onnx.model_copy(update=changes)
        card = Card(base="test", round=1, pairs=0, dimensions=DIMENSIONS, onnx=onnx)
        return store.publish(staged, card, student.encode(list(PROBE_SENTENCES)).tolist())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "backend", "difference", "expected"),
    [
        ("auto", "auto", 1e-6, ("onnx", "float32")),
        ("float32", "auto", 1e-6, ("onnx", "float32")),
        ("float32", "torch", 1e-6, ("torch", "float32")),
        ("auto", "auto", 0.1, ("torch", "float32")),
        ("bfloat16", "auto", 1e-6, ("torch", "bfloat16")),
    ],
)
def test_an_exact_export_serves_where_its_record_holds(
    store: ModelStore, transformer: SentenceTransformer, exported: tuple[Path, Exports], start: Start,
    precision: str, backend: str, difference: float, expected: tuple[str, str],
) -> None:  # fmt: skip
    publish_with_onnx(store, transformer, exported, difference=difference)
    service = start(precision=precision, backend=backend, device="cpu")
    assert serving(service) == expected
    assert off(service, transformer) > (0.99 if precision == "bfloat16" else 0.9999999)


@pytest.mark.slow
@pytest.mark.parametrize(("speedup", "precision"), [(1.5, "int8"), (1.2, "float32")])
def test_int8_serves_where_it_is_faster_than_an_exact_export(
    store: ModelStore, transformer: SentenceTransformer, exported: tuple[Path, Exports], start: Start,
    speedup: float, precision: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("services.embedding.models.exported.INT8_LEAST_SPEEDUP", 1.1)
    folder, (onnx, int8) = exported
    assert onnx is not None
    assert int8 is not None
    with store.staging() as staged:
        shutil.copytree(folder, staged, dirs_exist_ok=True)
        records = {
            "onnx": onnx.model_copy(update={"speedup": 1.2}),
            "int8": int8.model_copy(update={"speedup": speedup}),
        }
        card = Card(base="test", round=1, pairs=0, dimensions=DIMENSIONS).model_copy(update=records)
        store.publish(staged, card, transformer.encode(list(PROBE_SENTENCES)).tolist())
    assert serving(start(precision="auto", device="cpu")) == ("onnx", precision)


@pytest.mark.slow
def test_an_exact_record_that_lies_is_found_out(
    store: ModelStore, transformer: SentenceTransformer, exported: tuple[Path, Exports], tmp_path: Path, start: Start
) -> None:
    good = publish(store, transformer, 0).id
    other = transformer_student(tmp_path / "parts", seed=4)
    other.save(str(tmp_path / "other"), create_model_card=False)
    others = tmp_path / "other", add_exports(tmp_path / "other", [])
    shutil.copytree(exported[0], tmp_path / "mixed")
    shutil.copytree(others[0] / "onnx", tmp_path / "mixed" / "onnx", dirs_exist_ok=True)
    bad = publish_with_onnx(store, transformer, (tmp_path / "mixed", others[1])).id
    service = start(device="cpu")
    assert service.serving() == good
    assert f"{bad} is quarantined" in service.version_check()


@pytest.mark.slow
def test_a_record_that_lies_is_found_out(
    store: ModelStore, transformer: SentenceTransformer, tmp_path: Path, start: Start
) -> None:
    good = publish(store, transformer, 0).id
    other = transformer_student(tmp_path / "parts", seed=4)
    other.save(str(tmp_path / "other"), create_model_card=False)
    assert add_exports(tmp_path / "other", []).int8 is not None
    with store.staging() as folder:
        transformer.save(str(folder), create_model_card=False)
        (folder / "onnx").mkdir()
        (tmp_path / "other" / "onnx" / "model_int8.onnx").rename(folder / "onnx" / "model_int8.onnx")
        card = Card(base="test", round=1, pairs=0, dimensions=DIMENSIONS,
                    int8=Int8(file="onnx/model_int8.onnx", cosine=0.999, speedup=2))  # fmt: skip
        bad = store.publish(folder, card, transformer.encode(list(PROBE_SENTENCES)).tolist()).id
    service = start(precision="auto", device="cpu")
    assert service.serving() == good
    assert f"{bad} is quarantined" in service.version_check()
    assert "PAIRWRIGHT_EMBEDDING_PRECISION=float32" in service.version_check()


def test_bfloat16(store: ModelStore, transformer: SentenceTransformer, start: Start) -> None:
    publish(store, transformer, 0)
    service = start(precision="bfloat16", device="cpu")
    assert serving(service) == ("torch", "bfloat16")
    assert 0.99 <= off(service, transformer) < 0.9999999


def test_a_static_student_is_always_exact(store: ModelStore, static_one: SentenceTransformer, start: Start) -> None:
    publish(store, static_one, 0)
    assert serving(start(precision="int8")) == ("static", "float32")
