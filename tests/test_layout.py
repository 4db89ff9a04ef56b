"""Our packages are run from the repository root: no dependency bears their names, and their modules import in order."""

import graphlib
import importlib.metadata
import tomllib
from pathlib import Path

import grimp
import pytest

from shared import __version__


@pytest.mark.parametrize("name", ["services", "shared", "scripts", "tests"])
def test_no_dependency_ships_our_names(name: str) -> None:
    assert importlib.metadata.packages_distributions().get(name, []) == []


def test_the_code_knows_its_version() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert __version__ == project["version"]


def test_no_import_circles() -> None:
    """Imports inside functions count as well."""
    graph = grimp.build_graph("services", "shared", "scripts", "experiments", exclude_type_checking_imports=True)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
