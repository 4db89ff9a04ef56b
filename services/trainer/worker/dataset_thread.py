"""The dataset on a thread of its own: the event loop, which renews the lease, never waits for the dataset's disk."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from services.trainer.dataset.store import Dataset, open_dataset

Result = TypeVar("Result")


class DatasetThread:
    """Runs calls on a dataset one after the other in one thread, each to its end, even when its caller is cancelled.

    Use it in a `with`, inside that of the dataset: it ends when the last call has. `folder` is the dataset's.
    """

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        self._dataset, self._folder = dataset, folder
        self._executor = ThreadPoolExecutor(1, "dataset")

    async def run(self, call: Callable[[Dataset], Result]) -> Result:
        """The result of `call`, or its error."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, self._dataset)

    async def run_beside(self, call: Callable[[Dataset], Result]) -> Result:
        """The result of a `call` that only reads and may take seconds: other calls don't wait for it."""

        def _read() -> Result:
            with open_dataset(self._folder, read_only=True) as dataset:
                return call(dataset)

        return await asyncio.to_thread(_read)

    def __enter__(self) -> "DatasetThread":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
