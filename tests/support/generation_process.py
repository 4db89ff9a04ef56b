"""Commands of the generation service as processes, on a tiny teacher in float32."""

import os
import subprocess
import sys
from pathlib import Path


def environment(home: Path, teacher: Path, **more: str) -> dict[str, str]:
    """What a command on this teacher needs; nothing of it is shared with other tests."""
    return {
        **os.environ,
        "PAIRWRIGHT_HOME": str(home),
        "PAIRWRIGHT_TEACHER": str(teacher),
        "PAIRWRIGHT_GENERATION_DTYPE": "float32",
        **more,
    }


def generate(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`python -m services.generation generate ...`, to its end."""
    command = [sys.executable, "-m", "services.generation", "generate", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
