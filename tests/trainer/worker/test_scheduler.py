"""The worker around its rounds, in this process: when they start, and what follows from how they end."""

import asyncio
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.trainer.dataset.store import FILE, State, lock, open_dataset
from services.trainer.progress import Progress
from shared.heartbeat import Heartbeats
from shared.model_store import ModelStore
from shared.process import ROOT
from shared.queue import EmbeddedServer
from shared.settings import Settings
from tests.support.pairs import make_pairs, records
from tests.support.worker import LocalTrainer, Outcomes, local_trainer, publish_something

pytestmark = pytest.mark.anyio

NEVER = 10**9
Run = Callable[..., AbstractAsyncContextManager[LocalTrainer]]


@pytest.fixture
def settings(server: EmbeddedServer, dataset: str, tmp_path: Path, static_student: Path) -> Settings:
    return Settings(home=tmp_path / "home", redis_url=server.url, dataset=dataset, student=str(static_student))


@pytest.fixture
def store(settings: Settings) -> ModelStore:
    return ModelStore(settings.models_dir)


@pytest.fixture
def outcomes(store: ModelStore) -> Outcomes:
    return Outcomes(store)


@pytest.fixture
def run(settings: Settings, outcomes: Outcomes) -> Run:
    def _run(**own: Any) -> AbstractAsyncContextManager[LocalTrainer]:
        return local_trainer(settings, outcomes, **own)

    return _run


@pytest.mark.slow
async def test_a_round_that_always_fails_is_given_up_and_collecting_goes_on(
    run: Run, store: ModelStore, outcomes: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    publish_something(store)
    outcomes.first = [Progress(error="no memory")] * 4
    async with run(round_pairs=60, retry_seconds=0.01) as trainer:
        await trainer.send(make_pairs(60))
        await trainer.wait_for_states("failed")
        assert outcomes.rounds == [1, 1, 1, 1]
        assert (await trainer.rounds())[0].reason == "no memory"
        await trainer.send(make_pairs(80)[60:])
        await trainer.wait_for_pairs(80)
        await trainer.wait_for_status(error="round 1: no memory", state="collecting", new_pairs=20)
    assert "given up after 4 tries" in caplog.text


@pytest.mark.slow
async def test_the_machine_s_error_is_not_the_round_s(run: Run, store: ModelStore, outcomes: Outcomes) -> None:
    publish_something(store)
    outcomes.first = [Progress(error="No space left", transient=True)]
    async with run(round_pairs=60) as trainer:
        await trainer.send(make_pairs(60))
        await trainer.wait_for_status(error="round 1: No space left", state="waiting to try again")
        await trainer.wait_for_states("published")
        assert (outcomes.rounds, (await trainer.rounds())[0].faults) == ([1, 1], 0)
        await trainer.wait_for_status(error=None)


async def test_a_rejected_round_leaves_the_current_version_and_the_next_pairs_get_their_own(
    run: Run, store: ModelStore, outcomes: Outcomes
) -> None:
    current = publish_something(store)
    outcomes.first = [Progress(version="r000001-00000000", rejection="points worse")]
    async with run(round_pairs=60) as trainer:
        await trainer.send(make_pairs(60))
        await trainer.wait_for_states("rejected")
        assert (store.current(), (await trainer.rounds())[0].reason) == (current, "points worse")
        await trainer.send(make_pairs(120)[60:])
        await trainer.wait_for_states("rejected", "published")
        assert [round_.pairs for round_ in await trainer.rounds()] == [60, 120]
        await trainer.wait_for_status(error=None, version=store.current(), step=1)


@pytest.mark.slow
async def test_a_round_waits_for_generation_and_takes_everything_then(
    run: Run, store: ModelStore, redis: Redis, dataset: str
) -> None:
    publish_something(store)
    generation = Heartbeats(redis, dataset)
    await generation.post("generation", {"running_jobs": 2})
    async with run(round_pairs=20, wait_for_generation="always") as trainer:
        await trainer.send(make_pairs(30))
        await trainer.wait_for_status(state="waiting for generation")
        assert await trainer.rounds() == []
        await trainer.send(make_pairs(50)[30:])
        await generation.post("generation", {"running_jobs": 0})
        await trainer.wait_for_states("published")
        assert (await trainer.rounds())[0].pairs == 50


async def train_once(settings: Settings) -> tuple[str, str]:
    """What `train --once` prints, as a process of its own."""
    values = {"HOME": settings.home, "REDIS_URL": settings.redis_url, "DATASET": settings.dataset}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.trainer", "train", "--once"),
        cwd=ROOT, env=os.environ | {f"PAIRWRIGHT_{name}": str(value) for name, value in values.items()},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return output.decode(), errors.decode().removeprefix("pairwright trainer: ")


@pytest.mark.slow
async def test_a_round_that_is_asked_for_needs_pairs_and_nothing_else(
    run: Run, settings: Settings, store: ModelStore, outcomes: Outcomes
) -> None:
    publish_something(store)
    outcomes.first = [Progress(version="r000001-00000000", rejection="points worse")]
    with lock(settings.dataset_dir):
        async with run(round_pairs=NEVER) as trainer:
            assert await train_once(settings) == ("", "there are no pairs and no passages to train on\n")
            await trainer.send(make_pairs(5))
            assert await train_once(settings) == ("", "round 1 is rejected, as r000001-00000000: points worse\n")
            await trainer.send(make_pairs(9)[5:])
            assert await train_once(settings) == (f"round 2 is published as {store.current()}\n", "")
            assert [round_.pairs for round_ in await trainer.rounds()] == [5, 9]


async def test_a_round_that_was_planned_and_not_named_gets_its_hash(
    run: Run, settings: Settings, store: ModelStore
) -> None:
    publish_something(store)
    with open_dataset(settings.dataset_dir) as dataset:
        dataset.add(records(make_pairs(9)))
        assert dataset.plan(1, settings.student).dataset_hash is None  # the trainer died while it read them
        dataset.remove([1])
        dataset.add(records(make_pairs(12)[9:]))
    async with run(round_pairs=NEVER) as trainer:
        await trainer.wait_for_states("published")
        [round_] = await trainer.rounds()
    with open_dataset(settings.dataset_dir.with_name("twin")) as twin:
        twin.add(records(make_pairs(9)))
        assert (round_.pairs, round_.dataset_hash) == (9, twin.hash())


@pytest.mark.slow
async def test_a_round_waits_for_a_base_that_is_gone(
    run: Run, settings: Settings, store: ModelStore, tmp_path: Path, static_student: Path
) -> None:
    publish_something(store)
    settings.student = str(tmp_path / "student")  # a disk that is not mounted yet
    async with run(round_pairs=60) as trainer:
        await trainer.send(make_pairs(60))
        await trainer.wait_for_states("planned")

        async def waits() -> bool:
            error = str((await trainer.status()).get("error"))
            return error.startswith("round 1 waits for its base: PAIRWRIGHT_STUDENT: there is no")

        await trainer.eventually(waits, "the error")
        shutil.copytree(static_student, tmp_path / "student")
        await trainer.wait_for_states("published")
        await trainer.wait_for_status(error=None)


@pytest.mark.slow
async def test_a_round_whose_base_is_gone_for_good_fails(
    run: Run, settings: Settings, store: ModelStore, tmp_path: Path, static_student: Path
) -> None:
    publish_something(store)
    settings.student = str(tmp_path / "student")
    async with run(round_pairs=60) as trainer:
        await trainer.send(make_pairs(60))
        await trainer.wait_for_states("planned")
    settings.student = str(static_student)
    async with run(round_pairs=60) as trainer:
        await trainer.wait_for_states("failed")
        assert str((await trainer.rounds())[0].reason).startswith("its base is gone, and another is set now: ")


def damage(store: ModelStore, version: str) -> None:
    file = store.path(version) / "modules.json"
    file.chmod(0o644)
    file.write_text("{}")


async def test_a_damaged_current_version_is_set_aside_at_the_start(
    run: Run, store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    sound, broken = publish_something(store), publish_something(store, 1)
    damage(store, broken)
    async with run() as trainer:
        await trainer.wait_for_status(version=sound)
    assert f"{broken}: modules.json was changed after publication; {sound} is current again" in caplog.text
    assert (store.root / ".quarantine" / broken).is_dir()


async def test_without_a_sound_version_the_base_is_published_anew(run: Run, store: ModelStore) -> None:
    damage(store, publish_something(store))
    async with run() as trainer:
        await trainer.wait_for_states("published")
    assert store.verify("current").round == 0


async def test_a_trainer_on_another_disk_waits_for_the_lease_too(
    run: Run, settings: Settings, store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_something(store)
    elsewhere = settings.model_copy(update={"home": tmp_path / "elsewhere"})
    publish_something(ModelStore(elsewhere.models_dir))
    async with run(round_pairs=NEVER) as first:
        await first.wait_for_status(state="collecting")
        async with local_trainer(elsewhere, Outcomes(store), round_pairs=NEVER) as second:

            async def waits() -> bool:
                return "takes over when it is gone" in caplog.text

            await second.eventually(waits, "the waiting")
            await first.send(make_pairs(10))
            await first.wait_for_pairs(10)
            assert not second.parts.lease.held
            await first.stop()
            await second.send(make_pairs(20)[10:])
            await second.wait_for_pairs(10)


async def test_a_slow_disk_does_not_hold_up_the_event_loop(run: Run, settings: Settings, store: ModelStore) -> None:
    publish_something(store)
    async with run(round_pairs=NEVER) as trainer:
        await trainer.wait_for_status(state="collecting")
        with closing(sqlite3.connect(settings.dataset_dir / FILE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the trainer's commit must wait now
            await trainer.send(make_pairs(10))
            longest, ends = 0.0, time.monotonic() + 1.0
            while (began := time.monotonic()) < ends:
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - began)
            assert longest < 0.5
            other.execute("ROLLBACK")
        await trainer.wait_for_pairs(10)
        assert [round_.state for round_ in await trainer.rounds()] == list[State]()
