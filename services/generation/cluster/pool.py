"""The pool of engines: Ray Data gives shards to processes, and to others when a machine or a process dies."""

from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from services.generation.cluster.writing import Run, ShardWriter
from shared.errors import Fatal, first_line
from shared.ray_cluster import Pool

SHARDS_AT_ONE_TIME = 2
"""In a process: the engine stays full while one shard ends and the next begins."""
AGAIN = "what was written is kept; the same command goes on"


def quiet() -> None:
    """Ray Data's own progress bars go, and no process gets more shards than it works on."""
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.actor_pool_util_upscaling_threshold = 1.0


def write_shards(run: Run, pool: Pool, pass_number: int, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Have shards written; a row for each as it comes, see `ShardWriter`. Raises `Fatal`.

    Ray tries a shard again and again while processes and machines die; `ShardWriter` counts how often.
    """
    DataContext.get_current().execution_options.preserve_order = False
    rows = [{"pass_number": pass_number, "shard": shard} for shard in shards]
    strategy = ActorPoolStrategy(
        min_size=1,
        max_size=min(pool.actors, len(shards)),
        initial_size=min(pool.actors, len(shards)),
        max_tasks_in_flight_per_actor=SHARDS_AT_ONE_TIME,
        max_concurrent_calls_per_actor=SHARDS_AT_ONE_TIME,
        enable_true_multi_threading=True,
    )
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        ShardWriter,
        fn_constructor_args=(run,),
        batch_size=1,
        compute=strategy,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    try:
        yield from dataset.iter_rows()
    except RayError as error:
        raise Fatal(f"--cluster: {first_line(error)}; {AGAIN}") from None
