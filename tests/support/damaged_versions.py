"""Versions that are damaged: on disk after they were published, or before, with hashes that are right."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from shared.manifest import PROBE_SENTENCES, Card
from shared.model_store import ModelStore
from tests.support.versions import DIMENSIONS, publish


def truncate_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-500])


def change_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-2000:-1000] = bytes(byte ^ 0x15 for byte in data[-2000:-1000])
    file.write_bytes(data)


def weights_of_nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: np.full_like(tensor, np.nan) for name, tensor in tensors.items()}, folder / "model.safetensors")


def remove(name: str) -> Callable[[Path], None]:
    def _remove(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return _remove


def layers(number: int) -> Callable[[Path], None]:
    def _layers(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": number}))

    return _layers


def empty_modules(folder: Path) -> None:
    (folder / "modules.json").write_text("[]")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "weights cut short": truncate_weights,
    "weights changed": change_weights,
    "weights of NaN": weights_of_nan,
    "weights missing": remove("model.safetensors"),
    "tokenizer missing": remove("tokenizer.json"),
    "modules missing": remove("modules.json"),
    "modules empty": empty_modules,
    "config missing": remove("config.json"),
    "pooling missing": remove("1_Pooling"),
    "a layer too many": layers(3),
    "a layer too few": layers(1),
}


def damaged_on_disk(
    store: ModelStore, student: SentenceTransformer, damage: Callable[[Path], None], round_number: int = 1
) -> str:
    """A version that was whole when it was published, elsewhere, and is damaged when `current` names it."""
    elsewhere = ModelStore(store.root.with_name("elsewhere"))
    version = publish(elsewhere, student, round_number).id
    folder = store.root / "versions" / version
    shutil.copytree(elsewhere.path(version), folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    damage(folder)
    store.activate(version)
    return version


def published_wrong(
    store: ModelStore, student: SentenceTransformer, damage: Callable[[Path], None], round_number: int = 1
) -> str:
    """A version whose hashes are right and whose model isn't: only loading it and its probe can tell."""
    with store.staging() as folder:
        student.save(str(folder), create_model_card=False)
        damage(folder)
        card = Card(base="test", round=round_number, pairs=0, dimensions=DIMENSIONS)
        return store.publish(folder, card, student.encode(list(PROBE_SENTENCES)).tolist()).id
