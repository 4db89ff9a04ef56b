"""Shards and passes with one engine in this process, without Ray."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.generation.cluster import writing
from services.generation.cluster.run import Write, write_all
from services.generation.cluster.writing import RUN_FILE, Run, ShardWriter
from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.jobs.progress import JobProgress
from services.generation.pairs.plan import ResolvedPlan
from services.generation.settings import GenerationSettings
from shared.errors import Fatal
from shared.folder import DEATHS, Folder
from shared.settings import Settings
from tests.support.cluster_runs import SENTENCES, on_one_machine, resolved

pytestmark = [pytest.mark.slow]

SHARD = 7


def prepared(out: Path, plan: ResolvedPlan, teacher: Path, own: GenerationSettings) -> Run:
    """A run whose inputs are in their shards."""
    folder, texts = Folder(str(out)), list(plan.inputs or ())
    folder.write(RUN_FILE, b"{}")
    counted = {} if plan.pairs is not None or not texts else {"num_inputs": len(texts)}
    without = plan.model_copy(update={"inputs": None, **counted})
    run = Run(folder, b"{}", without, Settings(teacher=str(teacher)), own, len(texts), SHARD)
    for shard, begin in enumerate(range(0, len(texts), SHARD)):
        run.given().write(shard, texts[begin : begin + SHARD])
    return run


def by_this_process(run: Run) -> Write:
    """In the place of a pool."""
    writer = ShardWriter(run)

    def write(pass_number: int, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        for shard in shards:
            row = writer({"pass_number": [pass_number], "shard": [shard]})
            yield {name: values[0] for name, values in row.items()}

    return write


def silent(_: JobProgress) -> None:
    """In the place of a progress bar."""


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": SENTENCES[:11], "pairs": 25},  # several passes, in which each sentence comes several times
        {"pairs": 20, "task": "nli"},
        {"inputs": SENTENCES[:9] * 2, "task": "retrieval", "contrast": True, "filters": ["near_duplicate"]},
    ],
    ids=["given", "written", "passages"],
)
def test_passes_are_those_of_one_machine(
    plain_engine: TransformersEngine,
    tiny_teacher: Path,
    own: GenerationSettings,
    tmp_path: Path,
    fields: dict[str, Any],
) -> None:
    inputs = fields.get("inputs")
    plan = resolved(**fields | ({"inputs": list(dict.fromkeys(inputs))} if inputs else {}))
    results, expected = on_one_machine(plain_engine, plan)
    run = prepared(tmp_path, plan, tiny_teacher, own)
    progress, merger, _ = write_all(run, by_this_process(run), silent)
    assert (progress.accepted, progress.rejected) == (expected.accepted, expected.rejected)
    assert progress.samples == expected.samples
    assert sum(shard["pairs"] for shard in merger.shards) == expected.accepted.total()
    assert (
        merger.examples[:5]
        == [
            {**record.pair.model_dump(), "label": record.provenance.label}
            for result in results
            for record in result.pairs.values()
        ][:5]
    )
    if {"pairs", "inputs"} <= fields.keys():
        assert run.results(1).present()


def test_pairs_that_came_before_are_tried_again(
    plain_engine: TransformersEngine, tiny_teacher: Path, own: GenerationSettings, tmp_path: Path
) -> None:
    # Two first sentences that a filter can't tell apart: what is written for them is the same pair, but for a space.
    plan = resolved(num_inputs=12, sentence1_decoding={"max_tokens": 1, "top_k": 1}, decoding={"top_k": 1}, filters=[])
    _, expected = on_one_machine(plain_engine, plan)
    run = prepared(tmp_path, plan, tiny_teacher, own)
    progress, _, _ = write_all(run, by_this_process(run), silent)
    assert expected.rejected["duplicate"]
    assert (progress.accepted, progress.rejected) == (expected.accepted, expected.rejected)


def test_passages_are_searched_in_groups(
    plain_engine: TransformersEngine,
    tiny_teacher: Path,
    own: GenerationSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "CORPUS_SIZE", 10)  # at most 100,000 passages for a quick test
    plan = resolved(inputs=SENTENCES[:20], task="retrieval", labels=["question"], filters=["round_trip"])
    run = prepared(tmp_path, plan, tiny_teacher, own)
    progress, _, _ = write_all(run, by_this_process(run), silent)
    first, _ = on_one_machine(plain_engine, plan.model_copy(update={"inputs": SENTENCES[:10]}))
    lines = [line for shard in (0, 1) for line in run.results(0).read(shard) or ()][:10]
    assert [json.loads(line)["rejected"] for line in lines] == [dict(result.rejected) for result in first]
    assert progress.recorded >= 20


def test_a_disk_that_is_full_everywhere_ends_the_run(
    tiny_teacher: Path, own: GenerationSettings, tmp_path: Path
) -> None:
    run = prepared(tmp_path, resolved(inputs=SENTENCES[:3]), tiny_teacher, own)
    (tmp_path / "work" / "results-00" / "000000.parquet").mkdir(parents=True)  # a folder where a file should be
    with pytest.raises(IsADirectoryError, match="results-00"):
        write_all(run, by_this_process(run), silent)


def test_results_of_a_machine_that_can_t_write_are_written_by_the_driver(
    plain_engine: TransformersEngine,
    tiny_teacher: Path,
    own: GenerationSettings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = resolved(inputs=SENTENCES[:11])
    results, expected = on_one_machine(plain_engine, plan)
    run = prepared(tmp_path, plan, tiny_teacher, own)
    obstacle = tmp_path / "work" / "results-00" / "000000.parquet"
    obstacle.mkdir(parents=True)  # a folder where a file should be
    there = by_this_process(run)

    def write(pass_number: int, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        for row in there(pass_number, shards):
            if obstacle.is_dir():
                obstacle.rmdir()
            yield row

    progress, _, _ = write_all(run, write, silent)
    assert "shard 0 is written here instead of there: Is a directory" in caplog.text
    assert progress.counts() == expected.counts()
    assert progress.recorded == len(results)


def test_a_shard_that_could_not_be_read_is_tried_in_another_round(
    plain_engine: TransformersEngine,
    tiny_teacher: Path,
    own: GenerationSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(writing, "WAIT_S", 0.01)
    plan = resolved(inputs=SENTENCES[:11])
    _, expected = on_one_machine(plain_engine, plan)
    run = prepared(tmp_path, plan, tiny_teacher, own)
    items, away = tmp_path / "work" / "items-00" / "000000.parquet", tmp_path / "away"
    there = by_this_process(run)

    def write(pass_number: int, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        (away if away.exists() else items).rename(items if away.exists() else away)
        yield from there(pass_number, shards)

    progress, _, _ = write_all(run, write, silent)
    assert "shard 0 could not be written and is tried again: " in caplog.text
    assert progress.counts() == expected.counts()


def test_nobody_getting_on_ends_the_run(
    tiny_teacher: Path, own: GenerationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "WAIT_S", 0.01)
    run = prepared(tmp_path, resolved(inputs=SENTENCES[:3]), tiny_teacher, own)
    there = by_this_process(run)

    def write(pass_number: int, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        (tmp_path / "work" / "items-00" / "000000.parquet").unlink()
        yield from there(pass_number, shards)

    with pytest.raises(Fatal, match=r"^--cluster: .*items-00.*the same command goes on"):
        write_all(run, write, silent)


def test_a_folder_that_is_not_shared_is_told(tiny_teacher: Path, own: GenerationSettings, tmp_path: Path) -> None:
    run = prepared(tmp_path, resolved(inputs=SENTENCES[:3]), tiny_teacher, own)
    elsewhere = Run(Folder(str(tmp_path / "elsewhere")), b"{}", run.plan, run.common, run.own, run.inputs, SHARD)
    row = ShardWriter(elsewhere)({"pass_number": [0], "shard": [0]})
    assert row["fatal"] == [True]
    assert row["problem"][0].endswith("another machine doesn't see it; name a folder that all machines share")


def test_a_shard_of_which_processes_die_ends_the_run(
    tiny_teacher: Path, own: GenerationSettings, tmp_path: Path
) -> None:
    run = prepared(tmp_path, resolved(inputs=SENTENCES[:3]), tiny_teacher, own)
    for number in range(DEATHS):  # as dead processes leave them
        run.folder.write(f"work/tries-00/000000.{run.driver}.{number}", b"")
    run.folder.write("work/tries-00/000000.other.0", b"")
    with pytest.raises(Fatal, match=r"3 processes died of what .*items-00/000000.parquet holds"):
        write_all(run, by_this_process(run), silent)


def test_ray_is_not_imported_without_a_cluster() -> None:
    code = "import services.generation.__main__, sys; sys.exit('ray' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0
