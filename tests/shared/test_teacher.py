"""Where the teacher is: folders and hub ids are told apart, and nothing half-converted is ever used."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import Fatal
from shared.settings import Settings, load
from shared.teacher import default_teacher, folder_or_hub_id, locate


@pytest.fixture(scope="module")
def teacher() -> Path:
    """The default teacher in this user's own cache: converted here if it never was, for half a minute."""
    return default_teacher(load(Settings).cache_dir)


@pytest.mark.parametrize("name", ["gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_a_name_that_is_no_folder_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(name, tmp_path) == name


def test_a_folder_with_a_model_is_given_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert locate("model", tmp_path) == locate("./model", tmp_path) == str(tmp_path / "model")


def test_any_of_the_named_files_makes_a_folder_a_model(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    located = folder_or_hub_id(str(tmp_path), "PAIRWRIGHT_STUDENT", "modules.json", "config.json")
    assert located == str(tmp_path)


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "../model", "~/no-such-model-here", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_taken_for_a_hub_id(tmp_path: Path, name: str) -> None:
    with pytest.raises(Fatal) as raised:
        locate(name, tmp_path)
    assert str(raised.value) == f"PAIRWRIGHT_TEACHER: there is no folder {name!r}"


def test_a_folder_without_a_model_is_told_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(Fatal) as raised:
        folder_or_hub_id(str(tmp_path), "PAIRWRIGHT_STUDENT", "modules.json", "config.json")
    expected = f"PAIRWRIGHT_STUDENT: {tmp_path} holds none of modules.json, config.json; is it a model?"
    assert str(raised.value) == expected


def test_a_file_is_no_teacher(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(Fatal, match="PAIRWRIGHT_TEACHER: there is no folder"):
        locate(str(tmp_path / "model.gguf"), tmp_path)


ASK = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
answer = model.generate(**tokenizer(sys.argv[2], return_tensors="pt"), max_new_tokens=1, do_sample=False)
print(model.config.hidden_size, tokenizer.decode(answer[0]))
"""


@pytest.mark.slow
def test_the_default_teacher_is_whole_and_loads(teacher: Path) -> None:
    """In a process of its own: while transformers loads in two threads at once, as other tests may have it do, one of
    them can leave its switched-off `tie_weights` behind for all that are loaded later."""
    assert json.loads((teacher / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    command = [sys.executable, "-c", ASK, str(teacher), "The capital of France is"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == ["576", "The", "capital", "of", "France", "is", "Paris"], done.stderr


def test_a_finished_conversion_is_used_and_a_killed_one_is_not(teacher: Path, tmp_path: Path) -> None:
    leftover = tmp_path / ".converting-killed"
    leftover.mkdir()
    shutil.copy(teacher / "config.json", leftover)
    os.symlink(teacher, tmp_path / teacher.name)
    assert default_teacher(tmp_path) == tmp_path / teacher.name
    assert locate("default", tmp_path) == str(tmp_path / teacher.name)


def test_a_cache_that_cannot_be_written_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_CACHE: can't keep the default teacher in .*/file/cache: "):
        default_teacher(tmp_path / "file" / "cache")


def test_a_conversion_that_fails_leaves_nothing_and_sweeps_what_a_killed_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The converter is a process of its own; without its libraries in reach it fails at once, as on a full disk."""
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text("raise OSError(28, 'No space left on device')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    cache = tmp_path / "cache"
    (cache / ".converting-killed").mkdir(parents=True)
    with pytest.raises(Fatal, match=r"the default teacher could not be converted \(exit status 1, see above\)"):
        default_teacher(cache)
    assert [path.name for path in cache.iterdir()] == ["lock"]
