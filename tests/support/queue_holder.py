"""Run as a process by the queue's tests: share the embedded queue in a directory until stdin ends or it is killed."""

import sys
from pathlib import Path

from shared.queue import EmbeddedServer


def main() -> None:
    """Print the server's process id, or 0 if another process runs it."""
    server = EmbeddedServer(Path(sys.argv[1]))
    server.start()
    sys.stdout.write(f"{server.process.pid or 0}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
