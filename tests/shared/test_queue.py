"""The embedded queue: what was acknowledged survives every kill, and no server outlives its owners."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from shared.errors import Fatal
from shared.queue import EmbeddedServer, open_queue
from tests.shared.conftest import wait_until

ROOT = Path(__file__).resolve().parents[2]
Holder = tuple[subprocess.Popen[str], int]


@pytest.fixture
def hold() -> Iterator[Callable[[Path], Holder]]:
    """Starts a process that shares a directory's queue; gives it and the process id of the server it runs, or 0."""
    with contextlib.ExitStack() as stack:

        def start(directory: Path) -> Holder:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.support.queue_holder", str(directory)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            return process, int(process.stdout.readline())

        yield start


def alive(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has reaped doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def read(url: str, key: str) -> str | None:
    """The key's value, or None while there is no server."""
    try:
        with Redis.from_url(url, decode_responses=True, socket_timeout=1) as client:
            value = client.get(key)
    except (RedisError, OSError):
        return None
    assert value is None or isinstance(value, str)
    return value


def write(url: str, key: str, value: str) -> None:
    with Redis.from_url(url) as client:
        client.set(key, value)


def test_a_killed_server_comes_back_with_its_data(own_server: EmbeddedServer) -> None:
    for kill in range(1, 4):
        write(own_server.url, f"key{kill}", "kept")
        pid = own_server.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda kill=kill: own_server.process.restarts == kill, "the restart")  # type: ignore[misc]
        wait_until(lambda kill=kill: read(own_server.url, f"key{kill}") == "kept", "the data")  # type: ignore[misc]
        assert own_server.process.pid != pid


def test_stop_ends_the_server_and_the_data_stays(tmp_path: Path) -> None:
    first = EmbeddedServer(tmp_path)
    first.start()
    write(first.url, "key", "kept")
    pid = first.process.pid
    first.stop()
    assert pid is not None
    assert not alive(pid)
    with open_queue(None, tmp_path) as url:
        assert read(url, "key") == "kept"


@pytest.mark.slow
def test_the_next_process_takes_over_from_a_killed_owner(tmp_path: Path, hold: Callable[[Path], Holder]) -> None:
    owner, server_pid = hold(tmp_path)
    second, second_server_pid = hold(tmp_path)
    assert server_pid
    assert second_server_pid == 0
    url = EmbeddedServer(tmp_path).url
    write(url, "key", "kept")

    owner.kill()
    owner.wait()
    wait_until(lambda: not alive(server_pid), "the server's death with its owner")
    wait_until(lambda: read(url, "key") == "kept", "the take-over with the data")

    with Redis.from_url(url) as client:
        new_server_pid = int(client.info("server")["process_id"])
    second.kill()
    second.wait()
    wait_until(lambda: not alive(new_server_pid), "the second server's death with its owner")


@pytest.mark.slow
def test_leaving_does_not_disturb_the_process_that_runs_the_server(
    tmp_path: Path, hold: Callable[[Path], Holder]
) -> None:
    owner, server_pid = hold(tmp_path)
    guest, _ = hold(tmp_path)
    url = EmbeddedServer(tmp_path).url
    write(url, "key", "kept")
    guest.communicate(timeout=30)
    assert guest.returncode == 0
    assert alive(server_pid)
    assert read(url, "key") == "kept"
    owner.communicate(timeout=30)
    assert owner.returncode == 0
    assert not alive(server_pid)


def test_a_directory_too_long_for_a_socket_works(tmp_path: Path) -> None:
    directory = tmp_path / ("a" * 100) / ("b" * 100)
    with open_queue(None, directory) as url:
        write(url, "key", "kept")
        assert read(url, "key") == "kept"
        assert (directory / "appendonlydir").is_dir()


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Fatal, match=r"the embedded queue can't use .*/file/queue: Not a directory"):
        EmbeddedServer(tmp_path / "file" / "queue").start()


@pytest.mark.slow
def test_a_server_that_cannot_start_names_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("this is not a manifest\n")
    server = EmbeddedServer(tmp_path)
    try:
        with pytest.raises(
            Fatal, match=r"did not start within 3 s: exit status 1\..*server\.log.*PAIRWRIGHT_REDIS_URL"
        ):
            server.start(timeout_s=3)
    finally:
        server.stop()
    assert "manifest" in (tmp_path / "server.log").read_text()


def test_with_a_url_nothing_is_started(tmp_path: Path) -> None:
    with open_queue("redis://example:6379/0", tmp_path / "queue") as url:
        assert url == "redis://example:6379/0"
    assert not (tmp_path / "queue").exists()
