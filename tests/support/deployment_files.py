"""The deployment's files as their tools read them: compose merged and filled in, the Dockerfile by stages, `.env`."""

import io
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from dockerfile_parse import DockerfileParser
from pydantic_settings import BaseSettings

from services.embedding.settings import EmbeddingSettings
from services.generation.settings import GenerationSettings
from services.trainer.settings import TrainerSettings
from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OWN: dict[str, type[BaseSettings]] = {
    "generation": GenerationSettings,
    "trainer": TrainerSettings,
    "embedding": EmbeddingSettings,
}
CHOICES = ("gpu", "all-gpu", "cpu")
"""The profiles of which one is chosen."""
HOLE = re.compile(r"\$\{([A-Z_]+):-([^}]*)\}")
"""The one form of a variable in docker-compose.yml: each has a default."""


def service_of(container: str) -> str:
    """`generation` of `generation-cpu`: what it runs."""
    return container.removesuffix("-cpu").removesuffix("-gpu")


def variables(settings: type[BaseSettings]) -> dict[str, str]:
    """The environment variables that a settings class reads, with its fields."""
    prefix = str(settings.model_config["env_prefix"])
    return {f"{prefix}{name}".upper(): name for name in settings.model_fields}


def variables_of(service: str) -> set[str]:
    """Every PAIRWRIGHT_ variable that a service reads."""
    return {*variables(Settings), *variables(OWN[service])}


def compose_text() -> str:
    """docker-compose.yml as it is written."""
    return (ROOT / "docker-compose.yml").read_text()


def compose(values: Mapping[str, str] | None = None) -> dict[str, Any]:
    """docker-compose.yml, merged, with its variables filled in from `values`."""

    def fill(node: Any) -> Any:
        # After parsing, as compose does it: what is filled in stays text.
        if isinstance(node, dict):
            return {key: fill(value) for key, value in node.items()}
        if isinstance(node, list):
            return [fill(value) for value in node]
        return HOLE.sub(lambda hole: (values or {}).get(hole[1]) or hole[2], node) if isinstance(node, str) else node

    return dict(fill(yaml.safe_load(compose_text())))


def started(document: Mapping[str, Any], *profiles: str) -> dict[str, Any]:
    """The services that `docker compose --profile ... up` starts."""
    return {
        name: service
        for name, service in document["services"].items()
        if not service.get("profiles") or set(service["profiles"]) & set(profiles)
    }


def mounts(service: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Where its volumes are: target to volume (or the host's path) and mode."""
    targets = {}
    for mount in service.get("volumes", []):
        source, target, *mode = mount.split(":")
        targets[target] = (source, mode[0] if mode else "rw")
    return targets


def example() -> list[tuple[str, str]]:
    """The variables of .env.example in order, with their values, whether they are commented out or not."""
    return re.findall(r"^#?([A-Z][A-Z_]*)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)


@dataclass
class Stage:
    """One FROM of the Dockerfile and what follows it; ARGs are filled in."""

    base: str
    parent: "Stage | None"
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The values of an instruction here and in the stages before, oldest first."""
        return (self.parent.all(instruction) if self.parent else []) + self.own(instruction)

    def own(self, instruction: str) -> list[str]:
        """The values of an instruction in this stage alone."""
        return [value for name, value in self.steps if name == instruction]

    @property
    def image(self) -> str:
        """The image that it all begins with."""
        return self.parent.image if self.parent else self.base

    @property
    def command(self) -> list[str]:
        """CMD; a shell form would be no JSON."""
        return list(json.loads(self.all("CMD")[-1]))

    @property
    def health(self) -> list[str]:
        """The command of HEALTHCHECK."""
        return list(json.loads(self.all("HEALTHCHECK")[-1].partition("CMD ")[2]))

    @property
    def environment(self) -> dict[str, str]:
        """ENV, without the references to what was there before."""
        return dict(pair.split("=", 1) for value in self.all("ENV") for pair in value.split())


def stages() -> dict[str, Stage]:
    """Dockerfile.gpu."""
    parser = DockerfileParser(fileobj=io.BytesIO((ROOT / "Dockerfile.gpu").read_bytes()))
    targets: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    current: Stage | None = None
    for instruction, value in _steps(parser):
        for name, default in arguments.items():
            value = value.replace(f"${{{name}}}", default)
        if instruction == "ARG" and current is None:
            name, _, default = value.partition("=")
            arguments[name] = default
        elif instruction == "FROM":
            base, _, name = value.partition(" AS ")
            current = targets[name] = Stage(base, targets.get(base))
        elif current is not None:
            current.steps.append((instruction, value))
    return targets


def _steps(parser: DockerfileParser) -> Iterator[tuple[str, str]]:
    for step in parser.structure:
        if step["instruction"] != "COMMENT":
            yield step["instruction"], step["value"]


def project() -> dict[str, Any]:
    """pyproject.toml's `project`."""
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
