"""A version's folder becomes an `Encoder`, with as little imported as its kind of student needs."""

import gc
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

from services.embedding.models.base import Encoder
from services.embedding.settings import Backend, PrecisionSetting
from shared.manifest import Manifest

STATIC = "StaticEmbedding"


def load(
    folder: Path, manifest: Manifest, device: str, threads: int, precision: PrecisionSetting, backend: Backend = "auto"
) -> Encoder:
    """The version in `folder`. Imports for seconds: not for the event loop. Raises `BrokenVersion` for another kind."""
    modules = json.loads((folder / "modules.json").read_text())
    if [module["type"].rpartition(".")[2] for module in modules] == [STATIC]:
        encoder: Encoder | None = _imported("static").load(folder, manifest, modules[0]["path"])
    else:
        encoder = _imported("exported").load(folder, manifest, modules, device, threads, precision, backend)
    if encoder is None:
        encoder = _imported("transformer").load(folder, manifest, device, threads, precision, backend)
    return encoder


def _imported(name: str) -> ModuleType:
    full = f"services.embedding.models.{name}"
    is_first = full not in sys.modules
    module = importlib.import_module(full)
    if is_first:
        # The libraries' objects live for ever: the collection after each swap need not walk a million of them.
        gc.freeze()
    return module
