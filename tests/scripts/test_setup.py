"""The set-up's decisions, on real interpreters and a real pip that is kept off the network."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.setup import (
    CANDIDATES,
    PYTORCH_CPU_INDEX,
    Environment,
    SetupError,
    Steps,
    choose_device,
    find_python,
    get_browser,
    only_one,
    probe,
    unsupported_reason,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ("pyproject.toml", "constraints.txt", "scripts/setup.py")
CPU = {"PAIRWRIGHT_DEVICE": "cpu"}


@pytest.fixture(scope="module")
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but pip, made once."""
    folder = tmp_path_factory.mktemp("venv") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder


@pytest.fixture
def checkout(tmp_path: Path, bare_venv: Path) -> Path:
    """What the set-up reads, and a `.venv` in which nothing is installed yet."""
    (tmp_path / "scripts").mkdir()
    for file in INPUTS:
        shutil.copy(ROOT / file, tmp_path / file)
    shutil.copytree(bare_venv, tmp_path / ".venv", symlinks=True)
    return tmp_path


def offline() -> dict[str, str]:
    """An environment in which pip finds nothing."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PAIRWRIGHT_", "PYTHON"))
    }
    return variables | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}


def offline_setup(checkout: Path, **variables: str) -> subprocess.Popen[str]:
    """The set-up as `make` starts it; its pip finds nothing."""
    return subprocess.Popen(
        [sys.executable, str(checkout / "scripts" / "setup.py")],
        env=offline() | CPU | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def complete(checkout: Path) -> Environment:
    """Mark the checkout as the set-up does when every step succeeded."""
    environment = Environment(checkout, "cpu", {})
    environment._write_stamp(1.0)
    return environment


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_first_candidate_that_fits_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As pyenv answers for a version that isn't chosen.
    executable(tmp_path / CANDIDATES[0], f'echo "pyenv: {CANDIDATES[0]}: command not found" >&2; exit 127')
    executable(tmp_path / CANDIDATES[1], f'exec {sys.executable} "$@"')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_python(None) == CANDIDATES[1]


def test_without_a_fitting_python_each_failure_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(
        tmp_path / "python3.11", "echo 'Traceback (most recent call last):' >&2; echo 'No ensurepip' >&2; exit 1"
    )
    executable(tmp_path / "python3", "echo 3 8 10")
    monkeypatch.setenv("PATH", f"{tmp_path}")
    with pytest.raises(SetupError) as raised:
        find_python(None)
    message = str(raised.value)
    assert "python3.11: No ensurepip" in message
    assert "python3.12: not found" in message
    assert "python3: is Python 3.8.10" in message
    assert "apt install python3-venv" in message


def test_a_named_python_is_the_only_one_tried() -> None:
    assert find_python(sys.executable) == sys.executable
    with pytest.raises(SetupError, match=r"/no/such/python: not found\n") as raised:
        find_python("/no/such/python")
    assert "python3.11:" not in str(raised.value)


@pytest.mark.parametrize(
    ("platform", "system"), [("darwin", "macOS"), ("win32", "Windows"), ("freebsd15", "freebsd15")]
)
def test_a_system_without_packages_is_told_in_one_line(platform: str, system: str) -> None:
    assert unsupported_reason(platform) == f"not supported on {system} yet; use Linux, WSL 2 or Docker."
    assert unsupported_reason("linux") is None


@pytest.mark.parametrize(
    ("constraint", "message"), [("", "No matching distribution"), ("torch<3", "ResolutionImpossible")]
)
def test_torch_comes_from_pytorch_s_index_where_pip_finds_none(checkout: Path, constraint: str, message: str) -> None:
    """A constraint in pip's own configuration changes what it says."""
    (checkout / "constraint.txt").write_text(constraint)
    environment = Environment(checkout, "cpu", offline() | {"PIP_CONSTRAINT": str(checkout / "constraint.txt")})
    log = checkout / "log"
    with only_one(checkout) as lock, pytest.raises(SetupError, match="torch for the CPU, from PyTorch's index"):
        environment._install_cpu_torch(Steps(log, lock))
    steps = log.read_text().split("\n# ")[1:]
    assert message in steps[0]
    assert f"--index-url {PYTORCH_CPU_INDEX}\n" in steps[1]


@pytest.mark.parametrize(("script", "device"), [("echo 'GPU 0: NVIDIA H100'", "cuda"), ("exit 9", "cpu"), ("", "cpu")])
def test_the_driver_s_list_decides_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, device: str
) -> None:
    executable(tmp_path / "nvidia-smi", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_device({}) == device
    assert choose_device({"PAIRWRIGHT_DEVICE": ""}) == device


def test_the_device_can_be_named() -> None:
    assert choose_device({"PAIRWRIGHT_DEVICE": "cuda"}) == "cuda"
    with pytest.raises(SetupError, match="PAIRWRIGHT_DEVICE is 'gpu': set it to cpu or cuda"):
        choose_device({"PAIRWRIGHT_DEVICE": "gpu"})


def test_a_complete_set_up_is_not_repeated(checkout: Path) -> None:
    assert complete(checkout).up_to_date()
    status, out, err = finish(offline_setup(checkout))
    assert (status, out, err) == (0, "", "setup: .venv is up to date (cpu)\n")


@pytest.mark.parametrize("file", INPUTS)
def test_a_change_to_what_decides_the_set_up_repeats_it(checkout: Path, file: str) -> None:
    environment = complete(checkout)
    with (checkout / file).open("a") as changed:
        changed.write("# changed\n")
    assert not environment.up_to_date()


def test_another_device_or_another_python_repeats_it(checkout: Path, tmp_path: Path) -> None:
    complete(checkout)
    assert not Environment(checkout, "cuda", {}).up_to_date()
    other = executable(tmp_path / "python3.12", "echo 3 12 99")
    assert not Environment(checkout, "cpu", {"PYTHON": other}).up_to_date()
    assert Environment(checkout, "cpu", {"PYTHON": sys.executable}).up_to_date()


def test_an_environment_of_a_python_that_is_gone_is_not_used(checkout: Path) -> None:
    environment = complete(checkout)
    for name in ("python", "python3", Path(sys.executable).name):
        (checkout / ".venv" / "bin" / name).unlink(missing_ok=True)
    assert not environment.up_to_date()


def test_a_failing_step_is_named_with_pip_s_words_and_what_to_do(checkout: Path) -> None:
    status, out, err = finish(offline_setup(checkout))
    assert status == 1
    assert out == ""
    assert "the step 'pip itself' failed with exit status 1" in err
    assert "    ERROR: " in err
    assert "pip==" in err
    assert "What to do: constraints.txt, pyproject.toml and what the package index offers don't fit together" in err
    assert str(checkout / ".venv" / "setup.log") in err
    assert "Traceback" not in err
    assert "ERROR: " in (checkout / ".venv" / "setup.log").read_text()


def test_a_set_up_that_failed_counts_as_none(checkout: Path) -> None:
    environment = complete(checkout)
    with (checkout / "constraints.txt").open("a") as changed:
        changed.write("# changed\n")
    assert finish(offline_setup(checkout))[0] == 1
    shutil.copy(ROOT / "constraints.txt", checkout / "constraints.txt")
    assert not environment.up_to_date()


def test_a_broken_environment_is_made_anew(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv" / "lib")
    (checkout / ".venv" / "leftover").touch()
    _, _, err = finish(offline_setup(checkout))
    assert "setup: virtual environment by " in err
    assert not (checkout / ".venv" / "leftover").exists()
    assert isinstance(probe(str(checkout / ".venv" / "bin" / "python"), "import pip; print(1, 2, 3)"), tuple)


def test_a_second_set_up_waits_for_the_first_and_then_has_nothing_to_do(checkout: Path) -> None:
    with (checkout / "constraints.txt").open("a") as changed:
        changed.write("# changed\n")
    lock = os.open(checkout, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    second = offline_setup(checkout)
    assert second.stderr is not None
    assert second.stderr.readline() == "setup: another set-up of this checkout is running; waiting for it ...\n"
    assert second.poll() is None
    complete(checkout)
    os.close(lock)
    assert finish(second) == (0, "", "setup: .venv is up to date (cpu)\n")


def test_a_stopped_set_up_says_so_and_takes_its_step_along(checkout: Path) -> None:
    """The first step is held up by a pip that waits, as one does on a slow network."""
    pip = checkout / ".venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages" / "pip"
    (pip / "__main__.py").write_text("import os, time; print('pid', os.getpid(), flush=True); time.sleep(300)\n")
    process = offline_setup(checkout)
    assert process.stderr is not None
    assert process.stderr.readline() == "setup: pip itself ...\n"
    time.sleep(0.5)
    process.terminate()
    status, _, err = finish(process)
    assert status == 130
    assert err == "\npairwright setup: stopped. Run it again to complete it.\n"
    # Its pip held the lock as well, so the lock is free only when both are gone.
    lock = os.open(checkout, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


def test_without_a_browser_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (tmp_path / "lock").open("w") as lock:
        get_browser(Steps(tmp_path / "setup.log", lock.fileno()), {"PATH": str(tmp_path)})
    assert "apt install chromium" in capsys.readouterr().err
    browser = tmp_path / "chromium"
    browser.touch(0o755)
    with (tmp_path / "lock").open("w") as lock:
        get_browser(Steps(tmp_path / "setup.log", lock.fileno()), {"PATH": str(tmp_path)})
    assert capsys.readouterr().err == ""
