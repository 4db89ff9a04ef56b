"""Our packages are run from the repository root, so nothing installed may bear their names, nor know their version."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

from shared import __version__


@pytest.mark.parametrize("name", ["services", "shared", "scripts", "tests"])
def test_no_dependency_ships_our_names(name: str) -> None:
    assert importlib.metadata.packages_distributions().get(name, []) == []


def test_the_code_knows_its_version() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert __version__ == project["version"]
