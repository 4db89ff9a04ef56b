"""vLLM inside a Ray actor writes what vLLM writes by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from services.generation.cluster.run import ClusterOptions, finish, generate_on_cluster
from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.jobs.progress import JobProgress
from services.generation.settings import GenerationSettings
from shared.settings import Settings
from tests.support.cluster_runs import SENTENCES, check, on_one_machine, resolved
from tests.support.ray_cluster import cluster_of


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    yield from cluster_of(1)


def silent(_: JobProgress) -> None:
    """In the place of a progress bar."""


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_an_actor_writes_what_the_engine_writes(
    engine: VllmEngine, cluster: Cluster, tiny_teacher: Path, tmp_path: Path
) -> None:
    plan = resolved(inputs=SENTENCES)
    expected = on_one_machine(engine, plan)
    own = GenerationSettings(dtype="float32", max_lanes=16, max_batch_tokens=1024, max_model_len=256)
    options = ClusterOptions(cluster.address, str(tmp_path / "out"), None, cpus=1, shard_size=10)
    outcome = generate_on_cluster(options, plan, Settings(teacher=str(tiny_teacher)), own, silent)
    finish(outcome, {})
    check(tmp_path / "out", *expected)
