"""Who may call the console: its own page, and, while there are no keys, browsers on this machine alone."""

import ipaddress
from urllib.parse import urlsplit

from fastapi import Request

from shared.http.problems import Problem

LOCAL_NAME = "localhost"
FOREIGN = "Another web page asked for this. The console answers its own page alone."
NO_KEYS = (
    "Without keys, the console answers callers on this machine alone, under http://127.0.0.1 or http://localhost. "
    "Set PAIRWRIGHT_API_KEYS to open it to others."
)


def check_caller(request: Request, has_keys: bool) -> None:
    """Without keys, a caller on loopback that asks for a loopback host: a name of somebody else's may lead here too.

    Raises `Problem` 403.
    """
    if not has_keys and not (_is_loopback(_client(request)) and _is_loopback(_host(request))):
        raise Problem(403, "Forbidden", NO_KEYS)


def check_origin(request: Request) -> None:
    """The console's own page, or a program that is no browser. Raises `Problem` 403."""
    headers = request.headers
    origin = headers.get("origin")
    is_own = origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    if headers.get("sec-fetch-site", "same-origin") != "same-origin" or not is_own:
        raise Problem(403, "Forbidden", FOREIGN)


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def _host(request: Request) -> str:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == LOCAL_NAME or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
