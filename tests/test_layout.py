"""Our packages are run from the repository root, so nothing installed may bear their names."""

import importlib.metadata

import pytest


@pytest.mark.parametrize("name", ["services", "shared", "scripts", "tests"])
def test_no_dependency_ships_our_names(name: str) -> None:
    assert importlib.metadata.packages_distributions().get(name, []) == []
