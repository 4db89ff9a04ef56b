"""`make up`: start everything on this machine and keep serving until Ctrl-C or SIGTERM."""

import signal
import subprocess
import sys
import threading

from scripts.stack import Stack
from shared.errors import Fatal
from shared.process import ROOT, configure_logging, exit_with
from shared.settings import Settings, load


def main() -> None:
    """Run the stack until Ctrl-C or SIGTERM."""
    settings = load(Settings)
    configure_logging(settings.log_level, settings.log_format, "up")
    prepare_teacher()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Stack(settings) as stack:
        print(f"generation  {stack.url('generation')}/docs")
        print(f"embedding   {stack.url('embedding')}/docs")
        print(f"queue       {stack.redis_url}")
        print(f"logs        {stack.logs}")
        print("Ctrl-C stops everything. Starting takes about half a minute.", flush=True)
        starting = {"generation", "embedding"}
        while not stop.wait(0.5):
            stack.check()
            for service in sorted(starting):
                if not stack.not_ready(service):
                    starting.remove(service)
                    print(f"{service} is ready", flush=True)
        print("stopping", flush=True)


def prepare_teacher() -> None:
    """Convert the default teacher now, where its progress can be seen, and not inside a service. Raises `Fatal`."""
    if subprocess.run([sys.executable, "-m", "shared.teacher"], cwd=ROOT).returncode:
        raise Fatal("the teacher is not usable (see above)")


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("up", fatal)
