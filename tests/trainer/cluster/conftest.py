"""One cluster for all tests of this folder."""

from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from tests.support.ray_cluster import cluster_of


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    yield from cluster_of(2)
