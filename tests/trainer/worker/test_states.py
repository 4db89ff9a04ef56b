"""What goes wrong around a trainer is a clear state that ends, never a crash loop; and rounds on command."""

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.trainer import __main__ as trainer_main
from services.trainer.metrics import Metrics
from services.trainer.settings import TrainerSettings
from services.trainer.worker.parts import build
from shared.errors import Fatal
from shared.lease import Lease
from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from shared.redis import command_client
from shared.settings import Settings
from tests.support.pairs import make_pairs
from tests.support.ports import free_port
from tests.support.trainer import ROOT, LiveTrainer, send, status
from tests.support.worker import publish_something
from tests.trainer.conftest import Start


def limit_files(trainer: LiveTrainer, size: int) -> None:
    """Let the trainer, and what it starts from now on, write no larger files: a disk without room, for that process."""
    resource.prlimit(trainer.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def error(own_server: EmbeddedServer) -> str:
    return str(status(own_server.url).get("error"))


@pytest.mark.slow
def test_a_disk_without_room_holds_rounds_and_pairs_back_and_then_lets_them_go(
    start: Start, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    publish_something(ModelStore(tmp_path / "home" / "models" / "default"))
    trainer = start(round_pairs=60, retry_seconds=0.1)
    trainer.wait_until_collecting()
    before = trainer.store.current()
    limit_files(trainer, 5_000)  # a student is larger
    send(own_server.url, make_pairs(60))
    trainer.wait_until(lambda: "until it works" in trainer.log or "can't collect" in trainer.log, "the error")
    assert trainer.store.current() == before
    send(own_server.url, make_pairs(3000)[60:])
    trainer.wait_until(lambda: "can't collect" in error(own_server), "the pairs' error")
    assert trainer.count_pairs() < 3000
    assert trainer.store.verify("current").id == before

    limit_files(trainer, resource.RLIM_INFINITY)
    trainer.wait_until(lambda: trainer.count_pairs() == 3000, "the pairs")
    trainer.wait_until(lambda: trainer.states().get(1) == "published", "the round")
    assert trainer.query("SELECT faults FROM round WHERE id = 1") == [(0,)]
    assert trainer.store.verify("current").round >= 1


def test_a_base_that_never_was_is_a_typing_error(start: Start, tmp_path: Path) -> None:
    trainer = start(student=tmp_path / "nowhere")
    assert trainer.wait() == 1
    assert trainer.log.startswith("pairwright trainer: PAIRWRIGHT_STUDENT: there is no folder")


def once(trainer_home: Path, own_server: EmbeddedServer, student: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "PAIRWRIGHT_HOME": str(trainer_home),
        "PAIRWRIGHT_REDIS_URL": own_server.url,
        "PAIRWRIGHT_STUDENT": str(student),
    }
    command = [sys.executable, "-m", "services.trainer", "train", "--once"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


async def run_or_follow(home: Path, redis_url: str, is_ours: bool) -> object:
    """What `train --once` does once it knows whether the dataset's lock is its own."""
    settings, metrics = Settings(home=home, redis_url=redis_url), Metrics(CollectorRegistry())
    async with build(settings, TrainerSettings(), metrics, lambda *_: None) as parts:
        return await trainer_main.run_or_follow(parts, is_ours, asyncio.Event())


@pytest.mark.anyio
@pytest.mark.parametrize("is_ours", [True, False])
async def test_a_round_on_command_without_redis_ends_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    monkeypatch.setattr(trainer_main, "LEASE_WITHIN_S", 0.2)
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_REDIS_URL: Redis doesn't answer; .*Error 111"):
        await run_or_follow(tmp_path, f"redis://127.0.0.1:{free_port()}", is_ours)


@pytest.mark.anyio
async def test_a_round_on_command_waits_for_no_trainer_of_another_machine(
    own_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_main, "LEASE_WITHIN_S", 0.2)
    client = command_client(own_server.url)
    assert await Lease(client, "default", "trainer", "another").take(1, asyncio.Event())
    await client.aclose()
    with pytest.raises(Fatal, match="a trainer on another machine works on this dataset"):
        await run_or_follow(tmp_path, own_server.url, is_ours=True)


@pytest.mark.slow
def test_a_round_on_command(own_server: EmbeddedServer, tmp_path: Path, static_student: Path) -> None:
    home = tmp_path / "home"
    output, errors = once(home, own_server, static_student).communicate(timeout=120)
    assert output == ""
    assert errors.startswith("pairwright trainer: there are no pairs and no passages to train on: generate pairs")

    send(own_server.url, make_pairs(60))
    alone = once(home, own_server, static_student)
    output, errors = alone.communicate(timeout=120)
    store = ModelStore(home / "models" / "default")
    assert (alone.returncode, output) == (0, f"round 1 is published as {store.current()}\n"), errors
