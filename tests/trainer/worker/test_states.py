"""What goes wrong around a trainer is a clear state that heals, never a crash loop; and rounds on command."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from shared.manifest import Card
from shared.model_store import ModelStore
from shared.queue import EmbeddedServer
from tests.support.pairs import make_pairs
from tests.support.trainer import ROOT, LiveTrainer
from tests.trainer.conftest import Start
from tests.trainer.worker.test_loop import note, publish_something, send


def limit_files(trainer: LiveTrainer, size: int) -> None:
    """Let the trainer, and what it starts from now on, write no larger files: a disk without room, for that process."""
    resource.prlimit(trainer.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def fault(own_server: EmbeddedServer) -> str:
    return str(note(own_server.url).get("fault"))


def test_a_disk_without_room_holds_rounds_and_pairs_back_and_then_lets_them_go(
    start: Start, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    publish_something(tmp_path / "home")
    trainer = start(round_pairs=60, retry_seconds=0.1)
    trainer.wait_until_collecting()
    before = trainer.store.current()
    limit_files(trainer, 5_000)  # a student is larger
    send(own_server.url, make_pairs(60))
    trainer.wait_until(lambda: "until it works" in trainer.log or "can't collect" in trainer.log, "the fault")
    assert trainer.store.current() == before
    send(own_server.url, make_pairs(3000)[60:])
    trainer.wait_until(lambda: "can't collect" in fault(own_server), "the pairs' fault")
    assert trainer.count_pairs() < 3000
    assert trainer.store.verify("current").id == before

    limit_files(trainer, resource.RLIM_INFINITY)
    trainer.wait_until(lambda: trainer.count_pairs() == 3000, "the pairs")
    trainer.wait_until(lambda: trainer.states().get(1) == "published", "the round")
    assert trainer.query("SELECT faults FROM round WHERE id = 1") == [(0,)]
    assert trainer.store.verify("current").round >= 1


def damage(store: ModelStore, version: str) -> None:
    file = store.path(version) / "modules.json"
    file.chmod(0o644)
    file.write_text("{}")


def test_a_damaged_current_version_is_set_aside_at_the_start(start: Start, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "home" / "models" / "default")
    publish_something(tmp_path / "home")
    sound = store.current()
    with store.staging() as staged:
        (staged / "modules.json").write_text("[1]")
        broken = store.publish(staged, Card(base="test", round=1, pairs=9, dimensions=1), [[0.0]] * 4).id
    damage(store, broken)
    trainer = start()
    trainer.wait_until_collecting()
    trainer.wait_until(lambda: store.current() == sound, "the version before")
    assert f"{broken}: modules.json was changed after publication; {sound} is current again" in trainer.log
    assert (store.root / ".quarantine" / broken).is_dir()
    assert trainer.terminate() == 0


def test_without_a_sound_version_the_base_is_published_anew(start: Start, tmp_path: Path) -> None:
    publish_something(tmp_path / "home")
    store = ModelStore(tmp_path / "home" / "models" / "default")
    damage(store, str(store.current()))
    trainer = start()
    trainer.wait_until(lambda: trainer.states() == {0: "published"}, "the base")
    assert store.verify("current").round == 0


def test_a_round_waits_for_a_base_that_is_gone(
    start: Start, own_server: EmbeddedServer, tmp_path: Path, static_student: Path
) -> None:
    publish_something(tmp_path / "home")
    trainer = start(student=tmp_path / "student", round_pairs=60)  # a disk that is not mounted yet
    trainer.wait_until_collecting()
    send(own_server.url, make_pairs(60))
    trainer.wait_until(lambda: "round 1 waits for its base: PAIRWRIGHT_STUDENT: there is no" in fault(own_server), "it")
    assert trainer.states() == {1: "planned"}
    shutil.copytree(static_student, tmp_path / "student")
    trainer.wait_until(lambda: trainer.states() == {1: "published"}, "the round")
    trainer.wait_until(lambda: fault(own_server) == "None", "the end of the fault")


def test_a_base_that_never_was_is_a_typing_error(start: Start, tmp_path: Path) -> None:
    trainer = start(student=tmp_path / "nowhere")
    assert trainer.wait() == 1
    assert trainer.log.startswith("pairwright trainer: PAIRWRIGHT_STUDENT: there is no folder")


def test_a_rejected_round_leaves_the_current_version_and_the_next_pairs_get_their_own(
    start: Start, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    trainer = start(round_pairs=300, learning_rate=0.05, epochs=8)
    send(own_server.url, make_pairs(600))
    trainer.wait_until(lambda: "published" in [*trainer.states().values()][1:], "a good version")
    trainer.wait_until(lambda: "training" not in trainer.states().values(), "the end of rounds")
    assert trainer.terminate() == 0
    good = trainer.store.current()
    last = max(int(str(number)) for number in trainer.states())

    trainer = start(round_pairs=300, max_steps=1)
    send(own_server.url, make_pairs(1000)[600:])
    trainer.wait_until(lambda: trainer.states().get(last + 1) == "rejected", "the rejection")
    assert trainer.store.current() == good
    [[reason]] = trainer.query(f"SELECT reason FROM round WHERE id = {last + 1}")
    assert f"points worse than {good}" in str(reason)
    assert "stays current" in trainer.log


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


def test_a_round_on_command_with_and_without_a_trainer_that_runs(
    start: Start, own_server: EmbeddedServer, tmp_path: Path, static_student: Path
) -> None:
    home = tmp_path / "home"
    output, errors = once(home, own_server, static_student).communicate(timeout=120)
    assert output == ""
    assert errors == "pairwright trainer: there are no pairs to train on: generate some, or `dataset import` them\n"

    send(own_server.url, make_pairs(60))
    alone = once(home, own_server, static_student)
    output, errors = alone.communicate(timeout=120)
    store = ModelStore(home / "models" / "default")
    assert (alone.returncode, output) == (0, f"round 1 is published as {store.current()}\n"), errors

    trainer = start(round_pairs=10**9)
    trainer.wait_until_collecting()
    send(own_server.url, make_pairs(90)[60:])
    output, errors = once(home, own_server, static_student).communicate(timeout=120)
    assert trainer.states()[2] in ("published", "rejected"), errors
    assert trainer.query("SELECT pairs FROM round WHERE id = 2") == [(90,)]
    if trainer.states()[2] == "published":
        assert output == f"round 2 is published as {store.current()}\n"
    else:
        assert "round 2 is rejected" in errors
    assert trainer.terminate() == 0
