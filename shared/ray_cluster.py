"""The door to a Ray cluster: be a driver of one, see how many processes it has room for, and give rows to them.

Ray is the extra `cluster`: this module is imported only where a cluster was asked for.
"""

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

from shared.errors import Fatal, first_line
from shared.process import ROOT

AGAIN = "what was written is kept; the same command goes on"


@dataclass(frozen=True)
class Pool:
    """How many processes work, and what each has to itself."""

    actors: int
    cpus: int
    gpus: int


@contextlib.contextmanager
def connected(address: str, service: str) -> Iterator[None]:
    """Be a driver of the cluster at `auto` or `HOST:PORT`, whose machines get the code of this service and `shared`.

    Raises `Fatal`.
    """
    if address.startswith("ray://"):
        raise Fatal("--cluster: ray:// is a client's; run the command on a machine of the cluster, or as a RayJob")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _check_reachable(address)
    others = [f"/{folder.name}" for folder in (ROOT / "services").iterdir() if folder.is_dir()]
    others.remove(f"/{service}")
    environment: dict[str, Any] = {"py_modules": [str(ROOT / name) for name in ("services", "shared")]}
    environment["excludes"] = ["__pycache__", *others]
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel("ERROR")
    try:
        ray.init(address, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise _no_cluster(address, error) from None
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
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
    """As asked for, else by what the cluster has now: a process for `gpus` GPUs, or without any, for a machine.

    Raises `Fatal` where not one fits and no number was asked for.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = any(machine.get("GPU") for machine in machines)
    unit, each = ("GPU", gpus) if has_gpus else ("CPU", cpus or _least_cpus(machines))
    fitting = sum(int(machine.get(unit, 0) // each) for machine in machines)
    if actors is None and not fitting:
        raise Fatal(f"--cluster: no machine of it has {each} {unit}s for a process; a given number of them would wait")
    return Pool(actors or fitting, cpus or (1 if has_gpus else each), gpus if has_gpus else 0)


def call_each(
    made: type, arguments: tuple[Any, ...], rows: Sequence[dict[str, Any]], pool: Pool, at_one_time: int = 1
) -> Iterator[dict[str, Any]]:
    """What becomes of each row, in the order that they are done. Raises `Fatal`.

    Each process of the pool makes one `made(*arguments)` and calls it with batches of one row, from as many threads as
    rows it has `at_one_time`. Ray gives a row to others again and again while processes die: `made` counts them.
    """
    if not rows:
        return
    context = DataContext.get_current()
    context.execution_options.preserve_order = False
    context.actor_pool_util_upscaling_threshold = 1.0  # else a process gets more rows than it works on
    size = min(pool.actors, len(rows))
    strategy = ActorPoolStrategy(
        min_size=1,
        max_size=size,
        initial_size=size,
        max_tasks_in_flight_per_actor=at_one_time,
        max_concurrent_calls_per_actor=at_one_time,
        enable_true_multi_threading=at_one_time > 1,
    )
    dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map_batches(
        made,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=strategy,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    try:
        yield from dataset.iter_rows()
    except RayError as error:
        raise Fatal(f"--cluster: {first_line(error)}; {AGAIN}") from None


def _least_cpus(machines: Sequence[dict[str, float]]) -> int:
    return int(min((cpus for machine in machines if (cpus := machine.get("CPU", 0)) >= 1), default=1))
