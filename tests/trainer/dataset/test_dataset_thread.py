"""The dataset on a thread of its own."""

import asyncio
import threading
from pathlib import Path

import pytest

from services.trainer.dataset.pair_rows import Added
from services.trainer.dataset.store import Dataset, DatasetThread
from tests.support.pairs import make_pairs, records

pytestmark = pytest.mark.anyio


async def test_a_call_runs_to_its_end_though_its_caller_is_cancelled_and_reads_need_not_wait(
    pairs_dataset: Dataset, tmp_path: Path
) -> None:
    began, may_end = threading.Event(), threading.Event()

    def add(dataset: Dataset) -> Added:
        began.set()
        assert may_end.wait(30)
        return dataset.add(records(make_pairs(3)))

    with DatasetThread(pairs_dataset, tmp_path / "datasets" / "default") as thread:
        adding = asyncio.create_task(thread.run(add))
        await asyncio.to_thread(began.wait, 30)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert await thread.run_beside(Dataset.count) == 0
        may_end.set()
        assert await thread.run(Dataset.count) == 3
    assert pairs_dataset.count() == 3
