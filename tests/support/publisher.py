"""Run as a process by the store's tests: publish again and again, killed one file operation later each time."""

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

from shared.manifest import Card
from shared.model_store import ModelStore


def card(round_number: int) -> Card:
    """What a trainer says of its round."""
    return Card(base="default", round=round_number, pairs=10, dimensions=2)


def write_model(folder: Path, salt: bytes = b"") -> None:
    """A folder shaped like a saved model; different at each call."""
    (folder / "0_Pooling").mkdir()
    (folder / "0_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (folder / "modules.json").write_text("[]")
    (folder / "model.safetensors").write_bytes(salt or os.urandom(200_000))


def publish(store: ModelStore, round_number: int, salt: bytes = b"") -> str:
    """Publish a version; its id."""
    with store.staging() as staged:
        write_model(staged, salt)
        return store.publish(staged, card(round_number), [[0.0, 1.0]] * 4).id


def kill_before_operation(number: int) -> None:
    """Make this process kill itself right before its `number`-th operation on the file system."""
    operations = itertools.count(1)

    def hook(event: str, _arguments: tuple[Any, ...]) -> None:
        if event == "open" or event.startswith(("os.", "shutil.", "tempfile.")):
            if event == "os.kill":
                return
            if next(operations) == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> None:
    """Print `killed` after each killed publication, wait for a line on stdin, go on; print `published` and end."""
    store = ModelStore(Path(sys.argv[1]))
    for operation in itertools.count(1):
        with store.staging():
            pass  # sweeps what the killed one left: else each publication would make other operations than the last
        child = os.fork()
        if child == 0:
            kill_before_operation(operation)
            publish(store, operation)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write("killed\n" if os.WIFSIGNALED(status) else "published\n")
        sys.stdout.flush()
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        sys.stdin.readline()


if __name__ == "__main__":
    main()
