"""Ports for servers that tests start as processes, so that test processes side by side don't meet."""

import contextlib
import functools
import itertools
import socket
from collections.abc import Iterator

FIRST, LAST, SIZE = 20_000, 32_000, 100
"""Below the ports that the kernel gives to outgoing connections."""


def free_port() -> int:
    """A TCP port on loopback that nothing listens on, and that no other test process hands out."""
    _, ports = _own_range()
    for port in itertools.islice(ports, SIZE):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("all ports of this process are in use")


@functools.cache
def _own_range() -> tuple[socket.socket, Iterator[int]]:
    """The first range that no other process has: its first port stays bound for as long as this process lives."""
    for first in range(FIRST, LAST, SIZE):
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first))
        except OSError:
            claim.close()
        else:
            return claim, itertools.cycle(range(first + 1, first + SIZE))
    raise RuntimeError("all ranges of ports are in use")
