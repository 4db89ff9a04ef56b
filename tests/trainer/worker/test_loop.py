"""The worker as a process: rounds, deaths and restarts."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from shared.heartbeat import Heartbeats
from shared.manifest import Card
from shared.model_store import ModelStore
from shared.pairs import Pair
from shared.queue import EmbeddedServer
from shared.redis import command_client
from shared.stream import Offer, PairStream
from tests.support.pairs import make_pairs, records
from tests.support.trainer import LiveTrainer
from tests.trainer.conftest import Start


def send(url: str, pairs: list[Pair]) -> None:
    """Offer pairs to the trainer until they are accepted."""

    async def _send() -> None:
        client = command_client(url)
        offers = [Offer(record, "job") for record in records(pairs)]
        stream, answers = PairStream(client, "default"), None
        while answers is None:
            with contextlib.suppress(RedisError):  # the server may just have been killed: a producer tries again
                answers = await stream.append(offers)
        await client.aclose()

    asyncio.run(_send())


def note(url: str, post: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the trainer says of itself; first, `post` is said of generation."""

    async def _note() -> dict[str, Any]:
        client = command_client(url)
        board = Heartbeats(client, "default")
        if post is not None:
            await board.post("generation", post)
        found = await board.read("trainer")
        await client.aclose()
        return found

    return asyncio.run(_note())


def publish_something(home: Path) -> None:
    """A version to serve, so that no base needs publishing."""
    store = ModelStore(home / "models" / "default")
    with store.staging() as staged:
        (staged / "modules.json").write_text("[]")
        store.publish(staged, Card(base="test", round=0, pairs=0, dimensions=1), [[0.0]] * 4)


def test_from_nothing_to_a_trained_version(start: Start, own_server: EmbeddedServer) -> None:
    trainer = start(round_pairs=60)
    trainer.wait_until(lambda: trainer.states() == {0: "published"}, "the base")
    base = trainer.store.current()
    send(own_server.url, make_pairs(60))
    trainer.wait_until(lambda: trainer.states().get(1) == "training", "the round")
    trainer.wait_until(lambda: note(own_server.url).get("state") == "training", "the note")
    send(own_server.url, make_pairs(80)[60:])
    trainer.wait_until(lambda: trainer.count_pairs() == 80, "collecting goes on during a round")
    assert trainer.states()[1] == "training"
    trainer.wait_until(lambda: trainer.states()[1] == "published", "the version")
    version = trainer.store.current()
    assert version is not None
    manifest = trainer.store.verify(version)
    assert (manifest.round, manifest.pairs, manifest.parent) == (1, 60, base)
    trainer.wait_until(lambda: note(own_server.url).get("state") == "collecting", "the note of its end")
    said = note(own_server.url)
    assert (said["version"], said["pairs"], said["new_pairs"], said["fault"]) == (version, 80, 20, None)
    assert trainer.terminate() == 0
    assert "Traceback" not in trainer.log


def test_a_killed_round_runs_again_and_a_killed_trainer_resumes_it(
    start: Start, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    publish_something(tmp_path / "home")
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


def test_a_round_that_always_fails_is_given_up_and_collecting_goes_on(
    start: Start, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    publish_something(tmp_path / "home")
    send(own_server.url, make_pairs(60))
    trainer = start(round_pairs=60, retry_seconds=0.05)
    killed: set[int] = set()
    for _ in range(4):
        trainer.wait_until(lambda: trainer.child() not in (None, *killed), "the next try")
        killed.add(kill_child(trainer))
    trainer.wait_until(lambda: trainer.states() == {1: "failed"}, "the end of it")
    send(own_server.url, make_pairs(80)[60:])
    trainer.wait_until(lambda: trainer.count_pairs() == 80, "collecting")
    assert "given up after 4 tries" in trainer.log
    trainer.wait_until(lambda: "SIGKILL" in str(note(own_server.url).get("fault")), "the fault on the board")


def wait_for_pairs(trainer: LiveTrainer, count: int) -> None:
    trainer.wait_until(lambda: trainer.count_pairs() >= count, f"{count} pairs")


def test_redis_may_die_and_come_back(start: Start, own_server: EmbeddedServer, tmp_path: Path) -> None:
    publish_something(tmp_path / "home")
    trainer = start(round_pairs=10**9)
    send(own_server.url, make_pairs(10))
    trainer.wait_until(lambda: trainer.count_pairs() == 10, "the first pairs")
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGKILL)
    trainer.wait_until(lambda: "collecting again" in trainer.log, "its return")
    send(own_server.url, make_pairs(20)[10:])
    trainer.wait_until(lambda: trainer.count_pairs() == 20, "the next pairs")
    assert trainer.log.count("can't collect") == 1


def test_a_round_waits_for_generation_and_takes_everything_then(
    start: Start, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    publish_something(tmp_path / "home")
    note(own_server.url, post={"running_jobs": 2})
    trainer = start(round_pairs=20, wait_for_generation="always")
    send(own_server.url, make_pairs(30))
    trainer.wait_until(
        lambda: note(own_server.url, post={"running_jobs": 1}).get("state") == "waiting for generation", "the waiting"
    )
    assert trainer.states() == {}
    send(own_server.url, make_pairs(50)[30:])
    note(own_server.url, post={"running_jobs": 0})
    trainer.wait_until(lambda: trainer.states(), "the round")
    assert trainer.query("SELECT pairs FROM round") == [(50,)]


def test_a_second_trainer_waits_and_takes_over_when_the_first_dies(
    start: Start, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    publish_something(tmp_path / "home")
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


def test_a_trainer_on_another_disk_waits_for_the_lease_too(
    start: Start, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    publish_something(tmp_path / "home")
    publish_something(tmp_path / "elsewhere")
    first = start(round_pairs=10**9)
    first.wait_until_collecting()
    second = start(home=tmp_path / "elsewhere", round_pairs=10**9)
    second.wait_until(lambda: "takes over when it is gone" in second.log, "the waiting")
    assert "collecting;" not in second.log
    assert first.terminate() == 0
    second.wait_until_collecting()
    send(own_server.url, make_pairs(10))
    wait_for_pairs(second, 10)
    assert second.terminate() == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "PAIRWRIGHT_TRAINER_EPOCHS: Input should be greater than 0"),
        ({"wait_for_generation": "maybe"}, "PAIRWRIGHT_TRAINER_WAIT_FOR_GENERATION: Input should be 'auto', 'always'"),
    ],
)
def test_a_wrong_setting_is_one_line(start: Start, setting: dict[str, object], message: str) -> None:
    trainer = start(**setting)
    assert trainer.wait() == 1
    assert trainer.log.startswith(f"pairwright trainer: {message}")
    assert trainer.log.count("\n") == 1
