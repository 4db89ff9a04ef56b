"""Where the services answer."""

from collections.abc import Mapping

PORTS = {"generation": 8001, "embedding": 8002, "trainer": 8003}
"""When no port is set."""


def port_setting(service: str) -> str:
    """The environment variable that sets a service's port."""
    return f"PAIRWRIGHT_{service.upper()}_PORT"


def port(service: str, environment: Mapping[str, str]) -> int:
    """A service's port in an environment."""
    return int(environment.get(port_setting(service)) or PORTS[service])
