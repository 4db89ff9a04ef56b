"""Run as a process by the store's tests: publish one round after another until it is killed."""

import itertools
import os
import sys
from pathlib import Path

from shared.model_store import Card, ModelStore


def card(round_number: int) -> Card:
    """What a trainer says of its round."""
    return Card(base="default", round=round_number, pairs=10, dimensions=2)


def write_model(folder: Path, salt: bytes = b"") -> None:
    """A folder shaped like a saved model; different at each call."""
    (folder / "0_Pooling").mkdir()
    (folder / "0_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (folder / "modules.json").write_text("[]")
    (folder / "model.safetensors").write_bytes(salt or os.urandom(200_000))


def main() -> None:
    """Print a line when the first round is about to begin, then publish without end."""
    store = ModelStore(Path(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for number in itertools.count(int(sys.argv[2])):
        with store.staging() as staged:
            write_model(staged)
            store.publish(staged, card(number), [[0.0, 1.0]] * 4)


if __name__ == "__main__":
    main()
