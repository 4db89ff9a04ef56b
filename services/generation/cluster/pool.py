"""The pool of engines: Ray Data gives shards to processes, and to others when a machine or a process dies."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from services.generation.cluster.writing import Run, ShardWriter
from shared.errors import Fatal, first_line
from shared.process import ROOT

SHARDS_AT_ONE_TIME = 2
"""In a process: the engine stays full while one shard ends and the next begins."""
AGAIN = "what was written is kept; the same command goes on"


@dataclass(frozen=True)
class Pool:
    """How many processes hold an engine, and what each has to itself."""

    actors: int
    cpus: int
    gpus: int


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of the cluster at `auto` or `HOST:PORT`, whose machines get this code. Raises `Fatal`."""
    if address.startswith("ray://"):
        raise Fatal("--cluster: ray:// is a client's; run the command on a machine of the cluster, or as a RayJob")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _check_reachable(address)
    ours = [str(ROOT / name) for name in ("services", "shared")]
    environment: dict[str, Any] = {"py_modules": ours, "excludes": ["__pycache__", "/trainer", "/embedding"]}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel("ERROR")
    try:
        ray.init(address, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise _no_cluster(address, error) from None
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.actor_pool_util_upscaling_threshold = 1.0  # a process never has more than it works on
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes. Raises `Fatal`."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> Fatal:
    advice = "start one with `ray start --head`, or give the HOST:PORT of its head"
    return Fatal(f"--cluster: there is no cluster at {address!r}: {first_line(error)}; {advice}")


def pool_for(actors: int | None, cpus: int | None, gpus: int) -> Pool:
    """As asked for, else by what the cluster has now: an engine for `gpus` GPUs, or without any, for a machine."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = any(machine.get("GPU") for machine in machines)
    unit, each = ("GPU", gpus) if has_gpus else ("CPU", cpus or _least_cpus(machines))
    fitting = sum(int(machine.get(unit, 0) // each) for machine in machines)
    if actors is None and not fitting:
        raise Fatal(f"--cluster: no machine of it has {each} {unit}s free for an engine; --actors N waits for them")
    return Pool(actors or fitting, cpus or (1 if has_gpus else each), gpus if has_gpus else 0)


def _least_cpus(machines: Sequence[dict[str, float]]) -> int:
    return int(min((cpus for machine in machines if (cpus := machine.get("CPU", 0)) >= 1), default=1))


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
