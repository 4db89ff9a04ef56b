"""Each image has the packages of its service's extra alone: what a service imports must be among them.

All tests share one environment, in which a missing one would not be missed.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.deployment_files import OWN, project

ELSEWHERE = {
    "vllm": "scripts/setup.py and the Dockerfile choose its build",
    "triton": "vllm brings its own on a GPU",
    "mteb": "an option of `evaluate`, which says how to install it",
}
OPTIONAL = {"generation": {"pyarrow", "ray", "selectolax", "pypdf", "docx"}, "trainer": {"ray", "faiss"}}
"""What a service does without: such files, and `--cluster`, are refused by a line that says how to install it."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("services", "shared", include_external_packages=True, exclude_type_checking_imports=True)


def closure(requirements: list[str]) -> set[str]:
    """The distributions that are installed for these requirements, on this machine."""
    names: set[str] = set()
    visited: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in visited:
            continue
        visited.add((name, frozenset(requirement.extras)))
        names.add(name)
        waiting.extend(_asked_for_by(requirement))
    return names


def _asked_for_by(requirement: Requirement) -> Iterator[Requirement]:
    try:
        texts = requires(requirement.name) or []
    except PackageNotFoundError:  # for another system or Python
        return
    for text in texts:
        needed = Requirement(text)
        extras = requirement.extras or {""}
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            yield needed


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_an_extra_has_all_that_its_service_imports(graph: grimp.ImportGraph, name: str) -> None:
    imported = graph.find_upstream_modules(f"services.{name}", as_package=True)
    tops = {module.partition(".")[0] for module in imported} - {"services", "shared"} - sys.stdlib_module_names
    assert {"pydantic", "redis"} <= tops
    requirements = [*project()["dependencies"], *project()["optional-dependencies"][name]]
    installed = closure(requirements)
    distributions = packages_distributions()
    missing = {
        top: distributions.get(top, [])
        for top in tops - set(ELSEWHERE) - OPTIONAL.get(name, set())
        if not installed & {canonicalize_name(distribution) for distribution in distributions.get(top, [])}
    }
    assert not missing


@pytest.mark.parametrize("name", ["generation", "trainer"])
def test_the_default_teacher_can_be_converted(name: str) -> None:
    """transformers asks for both of them when it reads GGUF, and imports neither before."""
    assert {"gguf", "accelerate", "torch", "transformers"} <= closure(project()["optional-dependencies"][name])
