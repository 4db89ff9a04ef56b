"""`python -m shared.health SERVICE`: whether a service on this machine can do its work, by its exit status.

What a container's health check runs. Light, because it runs every few seconds.
"""

import argparse
import os
import sys
from http.client import HTTPConnection, HTTPException

from shared.errors import Fatal
from shared.ports import PORTS, port
from shared.process import fatal_in_one_line


def check(service: str) -> str:
    """The body of its `/readyz`. Raises `Fatal` when it isn't ready."""
    if service not in PORTS:
        raise Fatal(f"there is no service {service!r}: name one of {', '.join(PORTS)}")
    connection = HTTPConnection("127.0.0.1", port(service, os.environ), timeout=4.0)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except (OSError, HTTPException) as error:
        raise Fatal(f"{service} doesn't answer on port {connection.port}: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise Fatal(f"{service}: {body}")
    return body


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m shared.health", description="Whether a service can do its work.")
    parser.add_argument("service", choices=PORTS)
    with fatal_in_one_line("health"):
        sys.stdout.write(check(parser.parse_args().service) + "\n")
