"""A real Ray cluster on this machine: a head without cores, and nodes of one core each."""

import os
from collections.abc import Iterator

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray's workers give way to everything else by default; beside other tests they would hardly run.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - its name

from ray.cluster_utils import Cluster

STORE = 80 * 2**20
"""Bytes of a node's object store."""


def cluster_of(nodes: int) -> Iterator[Cluster]:
    """Yields a cluster, and ends its processes."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        yield cluster
    finally:
        cluster.shutdown()
