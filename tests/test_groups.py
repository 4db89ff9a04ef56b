"""Tests of one `xdist_group` run in one worker, one after the other."""

import pytest


@pytest.mark.xdist_group("together")
def test_the_scheduler_knows_a_test_s_group(request: pytest.FixtureRequest) -> None:
    """It reads the group from the test's id. With a pytest that is newer than pytest-xdist knows, it finds none."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("the tests are not distributed")
    assert request.node.nodeid.endswith("@together"), "see the pin of pytest in pyproject.toml"
