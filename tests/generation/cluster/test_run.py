"""`generate --cluster` on a real Ray cluster of two nodes, by the transformers engine: the same pairs, whoever dies."""

import contextlib
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet
from ray.cluster_utils import Cluster

from services.generation.cluster.run import ClusterOptions, Outcome, _inputs, finish, generate_on_cluster
from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.jobs.progress import JobProgress
from services.generation.pairs.plan import ResolvedPlan
from services.generation.pairs.work_item import public_rejected
from services.generation.settings import GenerationSettings
from shared.errors import Fatal
from shared.folder import Folder, Lines
from shared.ray_cluster import connected
from shared.settings import Settings
from tests.support.cluster_runs import SENTENCES, TOO_LONG, WIDE, check, on_one_machine, resolved
from tests.support.generation_process import environment
from tests.support.ray_cluster import STORE, cluster_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500), pytest.mark.xdist_group("ray")]

SHARD = 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    yield from cluster_of(2)


def silent(_: JobProgress) -> None:
    """In the place of a progress bar."""


def run(
    cluster: Cluster, out: Path, plan: ResolvedPlan, teacher: Path, own: GenerationSettings, **more: Any
) -> Outcome:
    """A run in this process, as far as its manifest."""
    options = ClusterOptions(cluster.address, str(out), cpus=1, **{"inputs": None, "shard_size": SHARD, **more})
    outcome = generate_on_cluster(options, plan, Settings(teacher=str(teacher)), own, silent)
    finish(outcome, {})
    return outcome


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def results_in(out: Path) -> dict[str, int]:
    """The results that are there, with the times of their files."""
    return {file.name: file.stat().st_mtime_ns for file in (out / "work" / "results-00").glob("*.parquet")}


def started(cluster: Cluster, out: Path, plan: dict[str, Any], teacher: Path, tmp_path: Path) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"seed": 3, "decoding": WIDE, **plan}))
    arguments = ["--plan", file, "--out", out, "--cluster", cluster.address, "--cpus-per-actor", 1, "--shard", SHARD]
    settings = {"ENGINE": "transformers", "MAX_MODEL_LEN": "256"}
    settings = {f"PAIRWRIGHT_GENERATION_{name}": value for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "services.generation", "generate", *map(str, arguments)],
        env=environment(tmp_path, teacher, **settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_killed_node_loses_and_doubles_nothing(
    cluster: Cluster, plain_engine: TransformersEngine, tiny_teacher: Path, tmp_path: Path
) -> None:
    body, out = {"inputs": SENTENCES, "pairs_per_label": 2}, tmp_path / "out"
    expected = on_one_machine(plain_engine, resolved(**body))
    doomed = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    with started(cluster, out, body, tiny_teacher, tmp_path) as process:
        wait_for(lambda: len(results_in(out)) >= 2)
        cluster.remove_node(doomed, allow_graceful=False)
        assert len(results_in(out)) < 8
        printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    check(out, *expected)
    assert json.loads(printed)["accepted"] == expected[1].accepted.total()
    assert "| first sentences | 36 given |" in (out / "README.md").read_text()


def test_a_killed_driver_goes_on(
    cluster: Cluster, plain_engine: TransformersEngine, tiny_teacher: Path, own: GenerationSettings, tmp_path: Path
) -> None:
    body: dict[str, Any] = {"num_inputs": 36, "task": "nli"}
    out = tmp_path / "out"
    expected = on_one_machine(plain_engine, resolved(**body))
    with started(cluster, out, body, tiny_teacher, tmp_path) as process:
        wait_for(lambda: len(results_in(out)) >= 2)
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not engines())  # Ray ends a dead driver's processes
    before = results_in(out)
    assert 2 <= len(before) < 8
    torn = out / "work" / "results-00" / sorted(before)[0]
    torn.write_bytes(torn.read_bytes()[:100])
    (out / "work" / "results-00" / ".000007.parquet.0.tmp").write_bytes(b"torn")
    kept: dict[str, int] = {}

    def look(_: JobProgress) -> None:
        kept.update(results_in(out))

    options = ClusterOptions(cluster.address, str(out), None, cpus=1, shard_size=SHARD)
    finish(generate_on_cluster(options, resolved(**body), Settings(teacher=str(tiny_teacher)), own, look), {})
    check(out, *expected)
    unchanged = {name for name in before if kept[name] == before[name]}
    assert unchanged == set(before) - {torn.name}


def test_a_full_disk_on_one_node_costs_nothing(
    cluster: Cluster,
    plain_engine: TransformersEngine,
    tiny_teacher: Path,
    own: GenerationSettings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The system refuses what the engine's process writes past the size of its logs: this shard is larger."""
    plan = resolved(inputs=SENTENCES, pairs_per_label=8)
    expected = on_one_machine(plain_engine, plan)
    wait_for(lambda: not engines())  # Ray ends those of the test before

    def fill() -> None:
        wait_for(lambda: bool(engines()))
        resource.prlimit(engines()[0].pid, resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    filling = threading.Thread(target=fill)
    filling.start()
    run(cluster, tmp_path / "out", plan, tiny_teacher, own, actors=1, shard_size=len(SENTENCES))
    filling.join()
    check(tmp_path / "out", *expected)
    [line] = [record.getMessage() for record in caplog.records if "is written here" in record.getMessage()]
    assert "shard 0" in line
    assert "File too large" in line


def engines() -> list[psutil.Process]:
    """This cluster's processes that hold an engine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if "ShardWriter" in " ".join(process.info["cmdline"] or ()):
                found.append(process)
    return found


def write_inputs(file: Path) -> list[str]:
    """A file with one sentence twice, one empty, and one that is too long for the teacher; the sentences."""
    given = [*SENTENCES[:20], TOO_LONG]
    rows = [*({"sentence1": text} for text in given), {"sentence1": SENTENCES[3]}, {"sentence1": ""}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return given


def test_one_actor_writes_one_machine_s_pairs(
    cluster: Cluster, plain_engine: TransformersEngine, tiny_teacher: Path, own: GenerationSettings, tmp_path: Path
) -> None:
    file, out = tmp_path / "inputs.jsonl", tmp_path / "out"
    expected = on_one_machine(plain_engine, resolved(inputs=write_inputs(file)))
    assert expected[1].rejected["prompt_too_long"]
    plan = resolved(inputs=["?"]).model_copy(update={"inputs": None})
    outcome = run(cluster, out, plan, tiny_teacher, own, inputs=str(file), skip_bad=True, actors=1)
    check(out, *expected)
    counts = outcome.manifest["given"]
    assert (counts["texts"], counts["duplicates"], counts["bad"]) == (21, 1, 1)
    assert f"{file}, row 23: sentence1 is empty" in counts["first_bad"]
    assert outcome.rejected == public_rejected(expected[0])
    # Once more: nothing is left to do, and no cluster is asked.
    again = ClusterOptions("127.0.0.1:9", str(out), str(file), shard_size=SHARD)
    assert generate_on_cluster(again, plan, Settings(teacher=str(tiny_teacher)), own, silent).progress is None
    with pytest.raises(Fatal, match="was begun with another plan: give another --out"):
        generate_on_cluster(again, resolved(pairs=31), Settings(teacher=str(tiny_teacher)), own, silent)


def test_two_actors_write_what_one_machine_does(
    cluster: Cluster, plain_engine: TransformersEngine, tiny_teacher: Path, own: GenerationSettings, tmp_path: Path
) -> None:
    file, out = tmp_path / "inputs.jsonl", tmp_path / "out"
    expected = on_one_machine(plain_engine, resolved(inputs=write_inputs(file)))
    plan = resolved(inputs=["?"]).model_copy(update={"inputs": None})
    run(cluster, out, plan, tiny_teacher, own, inputs=str(file), skip_bad=True, shard_size=2)
    check(out, *expected)


@pytest.mark.parametrize("name", ["inputs.jsonl", "inputs.txt"])
def test_a_bad_input_is_named(
    cluster: Cluster, tiny_teacher: Path, own: GenerationSettings, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b'"one"\n{"sentence1": "a\\u0000b"}\n' if "json" in name else b"one\n\xff\n")
    problem = "row 2: .*control characters" if "json" in name else "is not UTF-8"
    with pytest.raises(Fatal, match=f"--inputs: .*{name}.*{problem}"):
        run(cluster, tmp_path / "out", resolved(pairs=1), tiny_teacher, own, inputs=str(tmp_path / name))


def test_a_folder_of_passages_is_numbered_in_little_memory(cluster: Cluster, tmp_path: Path) -> None:
    """100,000 are measured by `make bench-cluster`."""
    texts = [
        f"Passage {number} is about {number * 7 % 1000} things and {'some ' * 20}more." for number in range(20_000)
    ]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("\n".join(texts[:5000]) + "\n")
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"title": "", "text": text}) + "\n" for text in texts[4000:10_000])
    parquet.write_table(pa.table({"id": range(10_000), "Text": texts[10_000:]}), folder / "c.parquet")
    (folder / "notes.md").write_text("not read")
    given = Lines(Folder(str(tmp_path / "out")), "work/inputs", 3000)
    before = psutil.Process().memory_info().rss
    with connected(cluster.address, "generation"):
        options = ClusterOptions(cluster.address, str(tmp_path / "out"), str(folder))
        counts = _inputs(options, resolved(task="retrieval", inputs=["?"]), given)
    assert counts == {"texts": 20_000, "duplicates": 1000, "bad": 0, "first_bad": ""}
    assert list(given.between(0, 20_000)) == texts
    assert list(given.between(5999, 6002)) == texts[5999:6002]
    assert psutil.Process().memory_info().rss - before < 300 * 2**20


def test_what_a_cluster_can_t_do_is_one_line(cluster: Cluster, tiny_teacher: Path, own: GenerationSettings) -> None:
    for address, message in (("ray://127.0.0.1:1", "is a client's"), ("127.0.0.1:9", "there is no cluster at")):
        with pytest.raises(Fatal, match=message), connected(address, "generation"):
            pass
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
