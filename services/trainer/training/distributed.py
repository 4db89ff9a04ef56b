"""A round on several processes, of torchrun or of Ray Train: one a GPU, and the first one decides and publishes."""

import os
import sys
from collections.abc import Callable
from typing import Any

from shared.die_with_parent import die_with

RANK = "LOCAL_RANK"


def launch(processes: int, arguments: list[str]) -> None:
    """Become torchrun with so many processes of `python -m services.trainer ARGUMENTS`. Returns only for one."""
    if processes == 1 or RANK in os.environ:
        return
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *torchrun, "-m", "services.trainer", *arguments]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.execv(sys.executable, command)  # the same process id: it still ends with our parent


class ProcessGroup:
    """The processes of this round; one alone needs no communication."""

    def __init__(self, tied_to_parent: bool = True) -> None:
        """Join it, as the environment says. torchrun may be killed, and `tied_to_parent` processes end with it."""
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.is_first = int(os.environ.get("RANK", "0")) == 0
        if self.size > 1:
            if tied_to_parent:
                die_with(os.getppid())
            from accelerate import PartialState
            from torch.cuda import is_available

            PartialState(cpu=not is_available())  # joins them: NCCL on GPUs, gloo without

    def compute_on_first(self, compute: Callable[[], Any]) -> Any:
        """What the first process computes, in all of them; the others wait for it."""
        result = compute() if self.is_first else None
        return broadcast_from_first(result) if self.size > 1 else result

    def leave(self) -> None:
        """End the common work."""
        if self.size > 1:
            from torch.distributed import destroy_process_group

            destroy_process_group()


def is_shared() -> bool:
    """Whether this process is one of a group."""
    from torch import distributed

    return bool(distributed.is_available() and distributed.is_initialized())


def broadcast_from_first(value: Any) -> Any:
    """The first process's value, in all processes of a group that is initialized."""
    from torch.distributed import broadcast_object_list

    values = [value]
    broadcast_object_list(values, src=0)
    return values[0]
