"""What carries traces and ids between the services, part by part."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.trainer.dataset.store import Dataset, open_dataset
from services.trainer.metrics import Metrics
from services.trainer.worker.health_server import health_server
from shared import tracing
from shared.logs import JsonFormatter, log_context
from shared.stream import Offer, PairStream
from tests.support.pairs import make_pairs, plan, records
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
ONE, TWO = (f"00-{digit * 32}-{digit * 16}-01" for digit in "12")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


def test_without_an_endpoint_nothing_is_traced() -> None:
    assert tracing.start("trainer")() is None
    with tracing.span("round", parent=ONE, links=[TWO], round=1) as span:
        assert span is None
        tracing.set_attributes(version="r000001-00000000")
        assert tracing.traceparent() is None
        assert tracing.current_ids() == {}


@pytest.mark.anyio
async def test_an_entry_carries_where_it_comes_from(redis: Redis, dataset: str) -> None:
    stream = PairStream(redis, dataset)
    first, second = records(make_pairs(2))
    await stream.append([Offer(first, "job")], ONE)
    await stream.append([Offer(second, "job")])
    assert [delivery.traceparent for delivery in await stream.read("trainer-0")] == [ONE, None]
    entries: Any = await redis.xrange(stream.key)
    (_, traced), (_, untraced) = entries
    assert set(traced) - set(untraced) == {"traceparent"}


def test_a_round_knows_the_traces_that_it_is_the_first_to_train_on(pairs: Path) -> None:
    made = records(make_pairs(40))
    with open_dataset(pairs) as dataset:
        dataset.add(made[:10], [ONE])
        first = plan(dataset, 1, "base")
        dataset.add(made[10:20], [ONE, TWO])
        second = plan(dataset, 1, "base")
        dataset.add(made[:5], [f"00-{'3' * 32}-{'3' * 16}-01"])  # nothing new: no round trains on it
        assert dataset.traceparents(first) == [ONE]
        assert dataset.traceparents(second) == [ONE, TWO]
        dataset.finish(first.id, "r000001-00000000")
        dataset.forget_traces(first)  # more of its trace is still to come
        assert dataset.traceparents(second) == [ONE, TWO]
        dataset.finish(second.id, "r000002-00000000")
        dataset.forget_traces(second)
        assert dataset.traceparents(plan(dataset, 1, "base")) == []


def test_a_round_that_failed_leaves_its_traces_to_the_next(pairs: Path) -> None:
    with open_dataset(pairs) as dataset:
        dataset.add(records(make_pairs(10)), [ONE])
        dataset.fail(plan(dataset, 1, "base").id)
        assert dataset.traceparents(plan(dataset, 1, "base")) == [ONE]


def test_a_dataset_of_the_schema_before_is_renewed(pairs: Path) -> None:
    with open_dataset(pairs) as dataset:
        dataset.add(records(make_pairs(5)))
        name = dataset.id
        _back_to_schema_2(dataset)
    with open_dataset(pairs) as dataset:
        assert (dataset.id, dataset.count()) == (name, 5)
        dataset.add(records(make_pairs(9)), [ONE])
        assert dataset.traceparents(plan(dataset, 1, "base")) == [ONE]


def _back_to_schema_2(dataset: Dataset) -> None:
    tables = ("document", "passage", "place", "corpus", "trace", "total", "removed_pair", "cosine", "origin", "curve")
    indexes = ("pair_passage", "pair_job", "pair_task", "pair_label", "pair_checked")
    newer = "DROP TRIGGER pair_put; DROP TRIGGER pair_taken_out; "
    newer += "".join(f"DROP TABLE {table}; " for table in tables) + "".join(f"DROP INDEX {one}; " for one in indexes)
    newer += "ALTER TABLE pair DROP COLUMN checked; ALTER TABLE pair DROP COLUMN corrected; "
    dataset._db.executescript(f"{newer} ALTER TABLE round DROP COLUMN last_pair; PRAGMA user_version = 2;")


def test_an_event_is_one_line_with_its_ids_and_its_traceback() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("services.x", logging.ERROR, "", 0, "a %s\nb", ("ü",), sys.exc_info())
    with log_context(job="1"), log_context(round=2, version=None):
        line = JsonFormatter("trainer").format(record)
    assert "\n" not in line
    event = json.loads(line)
    assert event["error"].endswith("ValueError: two\nlines")
    del event["time"], event["error"]
    expected = {"level": "ERROR", "logger": "services.x", "service": "trainer", "message": "a ü\nb"}
    assert event == expected | {"job": "1", "round": "2"}
    assert "job" not in json.loads(JsonFormatter("trainer").format(record))


def test_a_fatal_error_is_json_too(tmp_path: Path) -> None:
    settings = {"HOME": str(tmp_path), "STUDENT": str(tmp_path / "nowhere"), "LOG_FORMAT": "json"}
    environment = os.environ | {f"PAIRWRIGHT_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "services.trainer"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    event = json.loads(done.stderr.splitlines()[-1])
    assert (event["level"], event["service"]) == ("CRITICAL", "trainer")
    assert "PAIRWRIGHT_STUDENT" in event["message"]


@pytest.mark.anyio
async def test_readiness_of_the_trainer_follows_its_collecting() -> None:
    metrics, port = Metrics(CollectorRegistry()), free_port()
    url = f"http://127.0.0.1:{port}"
    async with health_server("127.0.0.1", port, metrics), httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/readyz")).json()["checks"]["lease"].startswith("ok; another trainer")
        metrics.set_lease_held(True)
        metrics.set_health(None, "round 3: out of memory")
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["rounds"]) == (200, "ok; round 3: out of memory")
        metrics.set_health("can't collect: disk full", None)
        down = await client.get("/readyz")
        assert (down.status_code, down.json()["checks"]["collecting"]) == (503, "can't collect: disk full")
        text = (await client.get("/metrics")).text
        assert "pairwright_trainer_collecting 0.0" in text
        assert "pairwright_trainer_error 1.0" in text
        assert "pairwright_trainer_faulty 1.0" in text  # retired: remove in 0.3
        assert (await client.get("/openapi.json")).status_code == 200


@pytest.mark.anyio
async def test_a_taken_port_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    metrics, port = Metrics(CollectorRegistry()), free_port()
    second = health_server("127.0.0.1", port, Metrics(CollectorRegistry()))
    async with health_server("127.0.0.1", port, metrics), second, httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200
    assert f"can't listen on 127.0.0.1:{port}" in caplog.text
    assert "PAIRWRIGHT_TRAINER_PORT" in caplog.text
