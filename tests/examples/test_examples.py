"""Every example runs as it stands against live services."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from services.embedding.api import openai_tokens
from services.embedding.serving.errors import InvalidInput
from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.settings import GenerationSettings
from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from tests.examples.conftest import DIMENSIONS, EXAMPLES, ROOT
from tests.support.embedding import LiveService
from tests.support.generation import live_generation
from tests.support.tiny_system import write_student
from tests.support.tiny_teacher import make_tiny_teacher

FILES = sorted(path for path in EXAMPLES.iterdir() if path.name not in ("README.md", "requirements.txt"))


def run(command: list[str], variables: dict[str, str]) -> list[str]:
    """The lines that a program prints."""
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout.splitlines()


def test_each_example_is_short_tested_and_listed() -> None:
    listed = re.findall(r"^\| \[(\S+)\]\(\1\) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.name for path in FILES]
    tests = Path(__file__).read_text()
    for path in FILES:
        assert len(path.read_text().splitlines()) < 40
        assert f'"{path.name}"' in tests


@pytest.mark.slow
def test_httpx(example_python: str, variables: dict[str, str], embedding: LiveService) -> None:
    version, near, far = run([example_python, str(EXAMPLES / "with_httpx.py")], variables)
    assert version == embedding.serving()
    assert -1 <= float(far) < float(near) <= 1


@pytest.mark.slow
def test_openai(example_python: str, variables: dict[str, str], embedding: LiveService) -> None:
    first, models = run([example_python, str(EXAMPLES / "with_openai.py")], variables)
    assert first == f"{embedding.serving()} [{DIMENSIONS}, {DIMENSIONS}]"
    assert embedding.serving() in models


@pytest.mark.slow
def test_token_ids_are_text_with_the_table_that_llama_index_brings(
    example_python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (table,) = Path(example_python).parents[1].glob("lib/*/site-packages/llama_index/core/_static/tiktoken_cache")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(table))
    openai_tokens._table.cache_clear()
    assert openai_tokens.decode([[64, 5679], [6]]) == ["a dog", "'"]
    with pytest.raises(InvalidInput, match="not all cl100k_base's"):
        openai_tokens.decode([[10**6]])
    openai_tokens._table.cache_clear()


@pytest.mark.slow
def test_huggingface_hub(example_python: str, variables: dict[str, str]) -> None:
    shape, similarities = run([example_python, str(EXAMPLES / "with_huggingface_hub.py")], variables)
    assert str(DIMENSIONS) in shape
    near, far = json.loads(similarities)
    assert far < near


@pytest.mark.slow
@pytest.mark.parametrize("name", ["with_langchain.py", "with_llama_index.py", "with_haystack.py"])
def test_frameworks_find_the_nearest(example_python: str, variables: dict[str, str], name: str) -> None:
    first, second = run([example_python, str(EXAMPLES / name)], variables)
    assert "A dog is running on the grass." in first
    assert float(first.split()[0]) > float(second.split()[0])


@pytest.mark.slow
def test_a_vector_store_is_filled(
    example_python: str, variables: dict[str, str], embedding: LiveService, tmp_path: Path
) -> None:
    file = tmp_path / "texts.duckdb"
    first, second = run([example_python, str(EXAMPLES / "fill_duckdb.py"), str(file)], variables)
    assert "A dog is running on the grass." in first
    assert float(first.split()[0]) > float(second.split()[0])
    read = (
        f"import duckdb; print(duckdb.connect({str(file)!r}).execute('SELECT version FROM made_by').fetchall()[0][0])"
    )
    assert run([example_python, "-c", read], variables) == [embedding.serving()]


def test_fetch(variables: dict[str, str], embedding: LiveService) -> None:
    node = shutil.which("node")
    assert node, "this example needs node 18 or newer: `apt install nodejs`, or nodejs.org"
    version, cosines = run([node, str(EXAMPLES / "with_fetch.mjs")], variables)
    near, far = map(float, cosines.split())
    assert version == embedding.serving()
    assert far < near


def test_curl(variables: dict[str, str], server: EmbeddedServer, dataset: str, tmp_path: Path) -> None:
    assert shutil.which("curl"), "this example needs curl: `apt install curl`"
    engine = TransformersEngine(str(make_tiny_teacher(tmp_path)), GenerationSettings(dtype="float32"))
    asyncio.run(engine.start())
    with live_generation(engine, server.url, dataset) as client:
        variables["PAIRWRIGHT_GENERATION_URL"] = str(client.base_url).rstrip("/")
        job, similarities = run(["sh", str(EXAMPLES / "with_curl.sh")], variables)
    assert json.loads(job)["state"] in ("complete", "exhausted")
    assert len(json.loads(job)["pairs"]) == json.loads(job)["accepted"]
    near, far = json.loads(similarities)
    assert far < near


@pytest.mark.slow
def test_the_nightly_job_publishes_a_version(variables: dict[str, str], tmp_path: Path) -> None:
    workflow = yaml.safe_load((EXAMPLES / "nightly.yml").read_text())
    job = workflow["jobs"]["retrain"]
    (tmp_path / "sentences.txt").write_text("\n".join(f"word{n} word{n + 1} word{n + 2}" for n in range(8)))
    write_student(tmp_path / "student", make_tiny_teacher(tmp_path / "teacher"))
    variables |= job["env"] | {
        "PYTHON": sys.executable,
        "RUNNER_TEMP": str(tmp_path),
        "SENTENCES": str(tmp_path / "sentences.txt"),
        "PAIRWRIGHT_HOME": str(tmp_path / "home"),
        "PAIRWRIGHT_TEACHER": str(tmp_path / "teacher"),
        "PAIRWRIGHT_STUDENT": str(tmp_path / "student"),
        "PAIRWRIGHT_GENERATION_ENGINE": "transformers",
        "PAIRWRIGHT_GENERATION_DTYPE": "float32",
        "PAIRWRIGHT_TRAINER_GATE": "off",
        "OMP_NUM_THREADS": "1",  # the models are tiny
    }
    steps = {step["run"]: step for step in job["steps"] if "run" in step and step["run"] != "make setup"}
    assert len(steps) == 4
    lines: list[str] = []
    for command in steps:
        lines = run(["bash", "-e", "-c", command], variables)
    current = ModelStore(tmp_path / "home" / "models" / "default").current()
    assert current is not None
    assert current.startswith("r000001-")
    assert any(current in line for line in lines)
