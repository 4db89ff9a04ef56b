"""`make up`, as a process: kill any one of its processes, itself included, and no accepted pair is lost."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from scripts.stack import SERVICES, Stack
from shared.errors import Fatal
from shared.pairs import Pair
from shared.ports import port_setting
from shared.process import DIE_WITH_PARENT, ROOT
from shared.settings import Settings, load
from tests.support.ports import free_port
from tests.support.tiny_teacher import make_tiny_teacher
from tests.support.versions import static_student

READY_WITHIN_S = 180.0


class Up:
    """`python -m scripts.up` on a tiny teacher and student."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.ports = {service: free_port() for service in SERVICES}
        self.environment = {
            **os.environ,
            **{port_setting(service): str(port) for service, port in self.ports.items()},
            "PAIRWRIGHT_HOME": str(self.home),
            "PAIRWRIGHT_TEACHER": str(make_tiny_teacher(folder / "teacher")),
            "PAIRWRIGHT_STUDENT": str(folder / "student"),
            "PAIRWRIGHT_GENERATION_ENGINE": "transformers",  # starts in seconds, three times
            "PAIRWRIGHT_GENERATION_DTYPE": "float32",
            "PAIRWRIGHT_GENERATION_MAX_LANES": "8",  # slow enough to be killed in the middle
            "PAIRWRIGHT_TRAINER_ROUND_PAIRS": "1000000",  # collecting is what this test is about
            "PAIRWRIGHT_TRAINER_ROUND_SECONDS": "100000",
        }
        static_student(seed=1).save(str(folder / "student"))
        self.client = httpx.Client(timeout=10)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.up"], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def children(self) -> dict[str, psutil.Process]:
        """The running services and the queue, by name."""
        children = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                command = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if DIE_WITH_PARENT.name in command:
                continue  # it is about to become the service
            for name in SERVICES:
                if command.endswith(f"services.{name}"):
                    children[name] = child
            if "valkey-server" in command:
                children["queue"] = child
        return children

    def url(self, service: str, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}{path}"

    def ready(self, service: str) -> bool:
        try:
            return self.client.get(self.url(service, "/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    def job(self, path: str) -> dict[str, object]:
        """The job; {} while nobody answers."""
        try:
            answer = self.client.get(self.url("generation", path))
        except httpx.HTTPError:
            return {}
        return dict(answer.json()) if answer.status_code == 200 else {}

    def dataset(self) -> list[str]:
        """The content hashes of all collected pairs."""
        with sqlite3.connect(self.home / "datasets" / "default" / "pairs.sqlite") as database:
            return [row[0].lower() for row in database.execute("SELECT hex(hash) FROM pair")]

    def logs(self) -> str:
        return "".join(f"\n--- {f.name}\n{f.read_text()[-1500:]}" for f in (self.home / "logs").glob("*.log"))


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    yield up
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(timeout=60) == 0
    assert not [child for child in psutil.process_iter() if str(tmp_path) in " ".join(_cmdline(child))]


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def wait_until(true: Callable[[], bool], up: Up, within_s: float = READY_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, up.logs()
        assert up.process.poll() is None, up.process.stdout.read() if up.process.stdout else ""
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killing_any_process_loses_no_accepted_pair(up: Up) -> None:
    wait_until(lambda: up.ready("generation") and up.ready("embedding"), up)
    plan = {"num_inputs": 400, "decoding": {"top_k": 0, "top_p": 1.0}}
    path = up.client.post(up.url("generation", "/generate"), json=plan).headers["location"]
    accepted = 0

    def progress() -> bool:
        job = up.job(path)
        return bool(job) and int(str(job["accepted"])) > accepted + 20

    for victim in ("queue", "trainer", "embedding", "generation"):
        wait_until(progress, up)
        accepted = int(str(up.job(path)["accepted"]))
        before = up.children()[victim]
        before.kill()
        wait_until(lambda: up.children().get(victim, before).pid != before.pid, up)  # noqa: B023
    wait_until(progress, up)
    accepted = int(str(up.job(path)["accepted"]))

    orphans = up.children()
    up.process.kill()
    up.process.wait()
    _, alive = psutil.wait_procs(list(orphans.values()), timeout=10)
    assert not alive
    up.start()

    wait_until(lambda: up.job(path).get("state") in ("complete", "exhausted"), up)
    job = up.job(path)
    assert int(str(job["work_items_done"])) >= 400
    lines = up.client.get(up.url("generation", f"{path}/pairs")).text.splitlines()
    pairs = [json.loads(line) for line in lines]
    hashes = [Pair(**{key: pair[key] for key in ("sentence1", "sentence2", "score")}).content_hash for pair in pairs]
    assert len(hashes) == len(set(hashes)) == job["accepted"]
    wait_until(lambda: len(up.dataset()) >= len(hashes), up)
    assert sorted(up.dataset()) == sorted(hashes)
    wait_until(lambda: up.ready("embedding"), up)
    answer = up.client.post(up.url("embedding", "/embed"), json={"inputs": "a dog is running"})
    assert answer.status_code == 200


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """For setting environment variables beside a home and free ports."""
    monkeypatch.setenv("PAIRWRIGHT_HOME", str(tmp_path / "home"))
    for service in SERVICES:
        monkeypatch.setenv(port_setting(service), str(free_port()))
    return monkeypatch


def test_an_occupied_port_is_one_clear_line(settings: pytest.MonkeyPatch) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        settings.setenv("PAIRWRIGHT_EMBEDDING_PORT", str(port))
        message = f"port {port} for embedding: Address already in use. Free it or set PAIRWRIGHT_EMBEDDING_PORT."
        with pytest.raises(Fatal, match=message), Stack(load(Settings)):
            pass


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "PAIRWRIGHT_REDIS_URL",
            "redis://:secret@127.0.0.1:1/0",
            "PAIRWRIGHT_REDIS_URL: no Redis answers at 127.0.0.1",
        ),
        ("PAIRWRIGHT_REDIS_URL", "localhost", "PAIRWRIGHT_REDIS_URL: "),
        ("PAIRWRIGHT_DATASET", "No Such!", "PAIRWRIGHT_DATASET: "),
        ("PAIRWRIGHT_HOME", "/proc/nowhere", "can't"),
    ],
)
def test_wrong_settings_are_one_clear_line(
    settings: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    settings.setenv(variable, value)
    with pytest.raises(Fatal, match=message) as raised, Stack(load(Settings)):
        pass
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_teacher_that_is_not_there_ends_the_command_with_one_clear_line(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("PAIRWRIGHT_TEACHER", "/no/such/folder")
    done = subprocess.run([sys.executable, "-m", "scripts.up"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    teacher, up = done.stderr.splitlines()
    assert teacher == "pairwright teacher: PAIRWRIGHT_TEACHER: there is no folder '/no/such/folder'"
    assert up == "pairwright up: the teacher is not usable (see above)"
