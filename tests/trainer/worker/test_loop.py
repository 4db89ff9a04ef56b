"""The worker as a process: rounds, deaths and restarts."""

import os
import signal
from pathlib import Path

import pytest

from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from tests.support.pairs import make_pairs
from tests.support.trainer import LiveTrainer, send, status
from tests.support.worker import publish_something
from tests.trainer.conftest import Start


@pytest.mark.slow
def test_from_nothing_to_a_trained_version(start: Start, own_server: EmbeddedServer) -> None:
    trainer = start(round_pairs=60)
    trainer.wait_until(lambda: trainer.states() == {0: "published"}, "the base")
    base = trainer.store.current()
    send(own_server.url, make_pairs(60))
    trainer.wait_until(lambda: trainer.states().get(1) == "training", "the round")
    trainer.wait_until(lambda: status(own_server.url).get("state") == "training", "the heartbeat")
    send(own_server.url, make_pairs(80)[60:])
    trainer.wait_until(lambda: trainer.count_pairs() == 80, "collecting goes on during a round")
    assert trainer.states()[1] == "training"
    trainer.wait_until(lambda: trainer.states()[1] == "published", "the version")
    version = trainer.store.current()
    assert version is not None
    manifest = trainer.store.verify(version)
    assert (manifest.round, manifest.pairs, manifest.parent) == (1, 60, base)
    trainer.wait_until(lambda: status(own_server.url).get("state") == "collecting", "the heartbeat of its end")
    last = status(own_server.url)
    assert (last["version"], last["pairs"], last["new_pairs"], last["error"]) == (version, 80, 20, None)
    assert trainer.terminate() == 0
    assert "Traceback" not in trainer.log


@pytest.mark.slow
def test_a_killed_round_runs_again_and_a_killed_trainer_resumes_it(
    start: Start, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    publish_something(ModelStore(tmp_path / "home" / "models" / "default"))
    send(own_server.url, make_pairs(60))
    trainer = start(round_pairs=60, retry_seconds=0.1)
    first = kill_child(trainer)
    trainer.wait_until(lambda: trainer.child() not in (None, first), "another try")
    assert trainer.query("SELECT faults, reason FROM round") == [
        (1, "its process was killed by SIGKILL (out of memory?)")
    ]
    planned = trainer.query("SELECT id, pairs, dataset_hash, seed, base FROM round")
    orphan = trainer.child()
    trainer.kill()
    trainer.wait_until_gone(orphan)
    trainer = start(round_pairs=60)
    trainer.wait_until(lambda: trainer.states() == {1: "published"}, "the resumed round")
    assert trainer.query("SELECT id, pairs, dataset_hash, seed, base FROM round") == planned
    assert trainer.query("SELECT faults FROM round") == [(1,)]  # its own death was not the round's fault
    assert trainer.terminate() == 0


def kill_child(trainer: LiveTrainer) -> int:
    trainer.wait_until(lambda: trainer.child() is not None, "the round's process")
    child = trainer.child()
    assert child is not None
    os.kill(child, signal.SIGKILL)
    return child


def wait_for_pairs(trainer: LiveTrainer, count: int) -> None:
    trainer.wait_until(lambda: trainer.count_pairs() >= count, f"{count} pairs")


@pytest.mark.slow
def test_redis_may_die_and_come_back(start: Start, own_server: EmbeddedServer, tmp_path: Path) -> None:
    publish_something(ModelStore(tmp_path / "home" / "models" / "default"))
    trainer = start(round_pairs=10**9)
    send(own_server.url, make_pairs(10))
    trainer.wait_until(lambda: trainer.count_pairs() == 10, "the first pairs")
    assert own_server.process.pid is not None
    os.kill(own_server.process.pid, signal.SIGKILL)
    trainer.wait_until(lambda: "collecting again" in trainer.log, "its return")
    send(own_server.url, make_pairs(20)[10:])
    trainer.wait_until(lambda: trainer.count_pairs() == 20, "the next pairs")
    assert trainer.log.count("can't collect") == 1


@pytest.mark.slow
def test_a_second_trainer_waits_and_takes_over_when_the_first_dies(
    start: Start, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    publish_something(ModelStore(tmp_path / "home" / "models" / "default"))
    first = start(round_pairs=10**9)
    first.wait_until_collecting()
    second = start(round_pairs=10**9)
    second.wait_until(lambda: "another trainer works on" in second.log, "the waiting")
    send(own_server.url, make_pairs(10))
    wait_for_pairs(first, 10)
    assert second.log.count("collecting;") == 1
    assert first.store.epoch() == 1
    first.kill()
    second.wait_until_collecting()
    send(own_server.url, make_pairs(20)[10:])
    wait_for_pairs(second, 20)
    assert second.store.epoch() == 2
    assert second.terminate() == 0


def test_a_wrong_setting_is_one_line(start: Start) -> None:
    trainer = start(epochs=0)
    assert trainer.wait() == 1
    assert trainer.log == "pairwright trainer: PAIRWRIGHT_TRAINER_EPOCHS: Input should be greater than 0\n"
