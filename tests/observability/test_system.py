"""One job followed from `/generate` to the published version, in traces, logs and metrics of the real processes."""

import itertools
import json
import re
from collections.abc import Iterator

import httpx
import pytest

from shared.queue import EmbeddedServer
from tests.support.tiny_system import SERVICES, TinySystem
from tests.support.trace_receiver import Receiver, Span
from tests.support.vocabulary import sample_names, used_on_the_page

pytestmark = pytest.mark.slow

REQUEST_ID = "nightly-17"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PLAN = {"task": "sts", "attempts": 8, "filters": [], "decoding": {"top_k": 0, "top_p": 1.0}}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.shutdown()


@pytest.fixture(scope="module")
def system(
    receiver: Receiver, server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TinySystem]:
    system = TinySystem(
        tmp_path_factory.mktemp("observed"),
        server.url,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="200",
        PAIRWRIGHT_LOG_FORMAT="json",
        PAIRWRIGHT_DATASET="observed",
        PAIRWRIGHT_TRAINER_ROUND_MIN_PAIRS="10",
        PAIRWRIGHT_TRAINER_ROUND_SECONDS="3",
    )
    try:
        system.wait_until_ready()
        yield system
    finally:
        system.stop()


def plan(first: int) -> dict[str, object]:
    """Twelve first sentences that no other plan has."""
    return PLAN | {"inputs": [f"word{number} word{number + 1} word{number + 2}" for number in range(first, first + 12)]}


@pytest.fixture(scope="module")
def job(system: TinySystem, receiver: Receiver) -> str:
    """A job that was asked for in `TRACE`, and whose pairs are in a published version; its id."""
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-ID": REQUEST_ID, "Prefer": "wait=100"}
    answer = httpx.post(system.url("generation") + "/generate", json=plan(0), headers=headers, timeout=110)
    assert answer.status_code == 200, answer.text
    assert answer.json()["accepted"] >= 10, answer.text[:600]
    system.wait_until(lambda: any(one.trace == TRACE for one in receiver.named("round")), "the round in its trace")
    return str(answer.json()["id"])


def by_name(receiver: Receiver, trace: str) -> dict[str, Span]:
    return {span.name: span for span in receiver.spans if span.trace == trace}


def test_one_job_is_one_trace_from_the_request_to_the_published_version(
    system: TinySystem, receiver: Receiver, job: str
) -> None:
    spans = by_name(receiver, TRACE)
    way = ["POST /generate", "job", "offer", "collect", "round", "run round", "publish"]
    assert set(way) | {"train"} <= set(spans)
    for before, after in itertools.pairwise(way):
        same = {one.id for one in receiver.spans if one.trace == TRACE and one.name == before}
        assert spans[after].parent in same, f"{after} follows {before}"
    assert {spans[name].service for name in way[:3]} == {"pairwright-generation"}
    assert {spans[name].service for name in way[3:]} == {"pairwright-trainer"}
    assert spans["job"].attributes["job"] == job
    version = spans["publish"].attributes["version"]
    assert spans["round"].attributes["version"] == version
    current = (system.home / "models" / "observed").glob("versions/*")
    assert version in {path.name for path in current}
    system.wait_until(
        lambda: httpx.get(system.url("embedding") + "/health").headers["x-pairwright-version"] == version,
        "the version serves",
    )


def test_a_round_on_many_traces_is_linked_to_each_and_each_ends_with_its_version(
    system: TinySystem, receiver: Receiver
) -> None:
    traces = {"1" * 32, "2" * 32}
    # Both jobs run at one time; no round starts before both have ended.
    for place, trace in enumerate(sorted(traces)):
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        httpx.post(system.url("generation") + "/generate", json=plan(20 + 15 * place), headers=headers)
    system.wait_until(lambda: any(one.links == traces for one in receiver.named("round")), "a round linked to both")
    round_ = next(one for one in receiver.named("round") if one.links == traces)
    assert round_.trace not in traces
    ends = [one for one in receiver.named("in round") if one.trace in traces]
    assert {one.trace for one in ends} == traces
    assert {one.attributes["version"] for one in ends} == {round_.attributes["version"]}
    assert all(one.links == {round_.trace} for one in ends)


def test_logs_are_json_with_the_ids_of_request_job_round_version_and_trace(system: TinySystem, job: str) -> None:
    events = {service: [json.loads(line) for line in system.log(service).splitlines()] for service in SERVICES}
    for service, lines in events.items():
        assert lines
        assert {one["service"] for one in lines} == {service}
        assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00$", one["time"]) for one in lines)
    done = next(one for one in events["generation"] if one.get("trace_id") == TRACE and " pairs, " in one["message"])
    assert done["request_id"] == REQUEST_ID
    assert done["job"] == job
    published = next(one for one in events["trainer"] if one.get("trace_id") == TRACE and "published" in one["message"])
    assert published["version"].startswith(f"r{int(published['round']):06d}-")
    assert any(one.get("version") for one in events["embedding"])


def test_every_metric_of_the_running_services_is_on_the_page(system: TinySystem) -> None:
    page = used_on_the_page()
    for service in SERVICES:
        text = httpx.get(system.url(service) + "/metrics").text
        exposed = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
        assert len(exposed) > 10
        assert {name for name in exposed if not name.endswith("_created")} <= sample_names(page)


def test_the_trainer_tells_its_health_and_what_it_does(system: TinySystem, job: str) -> None:
    url = system.url("trainer")
    ready = httpx.get(url + "/readyz").json()
    assert ready == {"status": "ready", "checks": {"lease": "ok", "collecting": "ok", "rounds": "ok"}}
    assert httpx.get(url + "/livez").json() == {"status": "alive"}
    assert httpx.get(url + "/other").status_code == 404
    metrics = httpx.get(url + "/metrics").text
    assert "pairwright_trainer_lease_held 1.0" in metrics
    assert float(re.findall(r'^pairwright_trainer_rounds_total\{outcome="published"\} (\S+)', metrics, re.M)[0]) >= 2
    assert float(re.findall(r"^pairwright_trainer_pairs_collected_total (\S+)", metrics, re.M)[0]) >= 10
