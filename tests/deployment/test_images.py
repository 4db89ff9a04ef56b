"""The compose file and the images, checked against the code that they run. No container engine is needed."""

import asyncio
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from scripts.setup import TORCH, VLLM
from services.embedding.settings import EmbeddingSettings
from services.generation.settings import GenerationSettings
from services.trainer.settings import TrainerSettings
from shared.process import Fatal
from shared.queue import EmbeddedServer
from shared.redis_client import command_client
from shared.settings import Settings, load
from shared.status import StatusBoard

ROOT = Path(__file__).resolve().parents[1]
OWN: dict[str, type[BaseSettings]] = {
    "generation": GenerationSettings,
    "trainer": TrainerSettings,
    "embedding": EmbeddingSettings,
}


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults are what is tested, whatever the person who runs the tests has set."""
    for variable in [name for name in os.environ if name.startswith("PAIRWRIGHT_")]:
        monkeypatch.delenv(variable)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


@pytest.fixture(scope="module")
def stages() -> dict[str, str]:
    """Each stage of the Dockerfile with everything that it inherits."""
    text: dict[str, str] = {}
    for block in re.split(r"^(?=FROM )", (ROOT / "Dockerfile.gpu").read_text(), flags=re.MULTILINE)[1:]:
        base, name = re.findall(r"^FROM (\S+) AS (\S+)$", block, re.MULTILINE)[0]
        text[name] = text.get(base, "") + block
    return text


def variables(settings: type[BaseSettings]) -> set[str]:
    return {f"{settings.model_config['env_prefix']}{name}".upper() for name in settings.model_fields}


KNOWN = variables(Settings).union(*(variables(own) for own in OWN.values()))


def test_the_services_are_the_folders_and_the_queue(compose: dict[str, Any]) -> None:
    folders = {path.name for path in (ROOT / "services").iterdir() if (path / "__init__.py").is_file()}
    assert set(compose["services"]) == folders | {"redis"} == set(OWN) | {"redis"}


@pytest.mark.parametrize("name", OWN)
def test_a_service_is_started_as_everywhere_else(compose: dict[str, Any], stages: dict[str, str], name: str) -> None:
    service = compose["services"][name]
    assert service["command"] == ["python3", "-m", f"services.{name}"]
    assert service["build"] == {"context": ".", "dockerfile": "Dockerfile.gpu", "target": name}
    assert f'CMD ["python3", "-m", "services.{name}"]' in stages[name]
    assert "ENV PYTHONPATH=/app " in stages[name]
    assert (ROOT / "services" / name / "__main__.py").is_file()


def test_every_variable_is_one_that_the_code_reads(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        ours = {variable for variable in service.get("environment", {}) if variable.startswith("PAIRWRIGHT_")}
        readable = variables(Settings) | variables(OWN[name]) if name in OWN else set()
        assert ours <= readable, f"{name} sets what it doesn't read: {ours - readable}"


def test_the_example_names_every_variable_that_compose_leaves_open_once_with_its_default(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = re.findall(r"^#(PAIRWRIGHT_\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    names = [name for name, _ in example]
    fixed = {variable for name in OWN for variable in compose["services"][name]["environment"]} & KNOWN
    assert sorted(names) == sorted(KNOWN - fixed)
    classes: tuple[type[BaseSettings], ...] = (Settings, *OWN.values())
    defaults = {settings: load(settings) for settings in classes}
    for name, value in example:
        monkeypatch.setenv(name, value)
    for settings, default in defaults.items():
        assert load(settings) == default


@pytest.mark.parametrize("name", ["generation", "embedding"])
def test_ports_and_health_checks_meet_the_settings(
    compose: dict[str, Any], stages: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    service = compose["services"][name]
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, value)
    settings: Any = load(OWN[name])
    assert settings.host == "0.0.0.0"
    assert service["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]
    assert f'"http://127.0.0.1:{settings.port}/readyz"' in service["healthcheck"]["test"][-1]
    assert f"EXPOSE {settings.port}" in stages[name]
    assert float(service["stop_grace_period"].removesuffix("s")) > settings.drain_seconds


def test_what_must_last_is_on_volumes(
    compose: dict[str, Any], stages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in compose["services"]["trainer"]["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = load(Settings)
    mounts = {name: dict(_mounts(service)) for name, service in compose["services"].items()}
    models, datasets = str(settings.models_dir.parent), str(settings.dataset_dir.parent)
    assert mounts["trainer"][models] == ("models", "rw")
    assert mounts["trainer"][datasets] == ("datasets", "rw")
    assert mounts["embedding"] == {models: ("models", "rw")}  # it may point `current` at another version
    assert mounts["trainer"][str(settings.cache_dir)] == mounts["generation"][str(settings.cache_dir)]
    assert {volume for mount in mounts.values() for volume, _ in mount.values()} == set(compose["volumes"])
    for name in OWN:
        made = re.findall(r"install -d -o pairwright (.*)$", stages[name], re.MULTILINE)[0].split()
        assert set(mounts[name]) <= set(made), "Docker would give a volume on a missing folder to root"


def _mounts(service: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    for mount in service.get("volumes", []):
        volume, target, *mode = mount.split(":")
        yield target, (volume, *mode) if mode else (volume, "rw")


def test_the_queue_is_durable_bounded_and_private(compose: dict[str, Any]) -> None:
    redis = compose["services"]["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "ports" not in redis
    for name in ("generation", "trainer"):
        assert compose["services"][name]["depends_on"] == {"redis": {"condition": "service_healthy"}}


@pytest.mark.parametrize("name", OWN)
def test_services_run_without_root_and_without_privileges(
    compose: dict[str, Any], stages: dict[str, str], name: str
) -> None:
    service = compose["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.findall(r"^USER (\S+)$", stages[name], re.MULTILINE)[-1] == "pairwright"


def test_the_images_take_what_exists_at_the_versions_that_are_pinned(stages: dict[str, str]) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    dockerfile = (ROOT / "Dockerfile.gpu").read_text()
    for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert source in allowed
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in OWN:
        installed = re.findall(r'"\.\[(.*)\]"', stages[name])[0].split(",")
        assert name in installed
        assert set(installed) <= set(extras)
    assert f"ARG VLLM_VERSION={VLLM}\n" in dockerfile
    assert f"torch=={TORCH}+cpu" in stages["cpu"]


async def _post(url: str, dataset: str) -> None:
    client = command_client(url)
    await StatusBoard(client, dataset).post("trainer", {"state": "collecting"})
    await client.aclose()


def test_the_trainer_s_health_check_sees_whether_it_lives(compose: dict[str, Any], tmp_path: Path) -> None:
    _, python, *arguments = compose["services"]["trainer"]["healthcheck"]["test"]
    assert python == "python3"
    server = EmbeddedServer(tmp_path)
    server.start()
    environment = {"PAIRWRIGHT_REDIS_URL": server.url, "PAIRWRIGHT_DATASET": "news", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    try:
        asyncio.run(_post(server.url, "another"))
        assert subprocess.run(command, env=environment).returncode == 1
        asyncio.run(_post(server.url, "news"))
        assert subprocess.run(command, env=environment).returncode == 0
    finally:
        server.stop()


def test_a_misspelt_value_in_the_environment_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_TRAINER_ROUND_PAIRS", "many")
    with pytest.raises(Fatal, match="PAIRWRIGHT_TRAINER_ROUND_PAIRS"):
        load(TrainerSettings)
