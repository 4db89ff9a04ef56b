"""`make up`: start everything on this machine and keep serving until Ctrl-C or SIGTERM."""

import signal
import threading

from scripts.stack import HTTP_SERVICES, Stack, prepare_teacher, run_command
from shared.process import configure_logging
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
        print(f"generation  {stack.url('generation')}/docs\nembedding   {stack.url('embedding')}/docs")
        print(f"console     {stack.url('generation')}/console")
        print(f"queue       {stack.redis_url}\nlogs        {stack.logs}")
        print("Ctrl-C stops everything. Starting takes about half a minute.", flush=True)
        starting = set(HTTP_SERVICES)
        while not stop.wait(0.5):
            stack.check()
            for service in sorted(starting):
                if not stack.not_ready(service):
                    starting.remove(service)
                    print(f"{service} is ready", flush=True)
                    if not starting:
                        print(f"Everything is up. Open {stack.url('generation')}/console", flush=True)
        print("stopping", flush=True)


if __name__ == "__main__":
    run_command("up", main)
