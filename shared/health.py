"""`python -m shared.health SERVICE`: whether a service on this machine can do its work, by its exit status.

What a container's health check runs. Light, because it runs every few seconds.
"""

import asyncio
import os
import sys
from http.client import HTTPConnection, HTTPException

from shared.process import Fatal, exit_with
from shared.settings import Settings, load

PORTS = {"generation": 8001, "embedding": 8002}
"""The HTTP services, and their ports where none is set."""
ANSWERS_WITHIN_S = 4.0


def check(service: str) -> str:
    """What its `/readyz` says, or the note that it keeps in Redis. Raises `Fatal` when it isn't well."""
    return _readiness(service) if service in PORTS else asyncio.run(_note(service))


def _readiness(service: str) -> str:
    port = int(os.environ.get(f"PAIRWRIGHT_{service.upper()}_PORT") or PORTS[service])
    connection = HTTPConnection("127.0.0.1", port, timeout=ANSWERS_WITHIN_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace")
    except (OSError, HTTPException) as error:
        raise Fatal(f"{service} doesn't answer on port {port}: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise Fatal(f"{service}: {said}")
    return said


async def _note(service: str) -> str:
    """A service without HTTP posts a note that fades when it dies."""
    from redis.exceptions import RedisError

    from shared.redis_client import command_client
    from shared.status import StatusBoard

    settings = load(Settings)
    if settings.redis_url is None:
        raise Fatal("PAIRWRIGHT_REDIS_URL: must be set, to find the notes of services without HTTP")
    client = command_client(settings.redis_url)
    try:
        note = await StatusBoard(client, settings.dataset).read(service)
    except (RedisError, OSError) as error:
        raise Fatal(f"can't ask Redis about {service}: {error}") from None
    finally:
        await client.aclose()
    if not note:
        raise Fatal(f"{service} has posted no note of late")
    return str(note)


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2:
            raise Fatal("name one service, as in: python -m shared.health embedding")
        sys.stdout.write(check(sys.argv[1]) + "\n")
    except Fatal as fatal:
        exit_with("health", fatal)
