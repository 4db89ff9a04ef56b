"""An environment for the examples, and the live services that they call."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.model_store import ModelStore
from tests.support.embedding import LiveService
from tests.support.tiny_system import random_student
from tests.support.versions import publish

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TEXT = "A a dog is running on the grass runs over lawn The stock market fell Stocks woman cooks soup which version"
DIMENSIONS = 256
"""Enough for random vectors to have little to do with each other."""


@pytest.fixture(scope="session")
def example_python() -> str:
    """A Python with examples/requirements.txt; made once, and again when the file changes."""
    requirements = EXAMPLES / "requirements.txt"
    name = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / ".examples_cache" / name
    python = folder / "bin" / "python"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes may want it at once
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
            install = ["install", "--quiet", "--no-deps", "--no-compile", "--disable-pip-version-check"]
            command = [sys.executable, "-m", "pip", "--python", str(python), *install, "-r", str(requirements)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"the examples' environment needs PyPI once:\n{done.stderr[-2000:]}"
            (folder / "whole").touch()
    return str(python)


@pytest.fixture(scope="session")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """The embedding service with one version."""
    home = tmp_path_factory.mktemp("examples")
    publish(ModelStore(home / "models" / "default"), random_student(set(TEXT.split()), DIMENSIONS), 0)
    service = LiveService(home)
    service.wait_until(lambda: service.version_check() == "ok", "the service is ready")
    yield service
    service.stop()


@pytest.fixture
def variables(embedding: LiveService) -> dict[str, str]:
    """What an example's process sees: the service's address, and nothing that reaches outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PAIRWRIGHT_", "HF_", "PYTHON"))}
    return kept | {"PAIRWRIGHT_URL": embedding.url, "HAYSTACK_TELEMETRY_ENABLED": "False", "LANGSMITH_TRACING": "false"}
