"""What the commands that take `--cluster` share."""

import importlib.util

from shared.errors import Fatal

NEEDED = ("ray", "pandas", "fsspec", "requests")


def check_installed() -> None:
    """Raise `Fatal` where the extra `cluster` isn't installed."""
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        advice = ".venv/bin/python -m pip install -c constraints.txt '.[cluster]'"
        raise Fatal(f"--cluster: needs the extra `cluster`: {advice}")
