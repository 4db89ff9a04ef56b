"""`python -m services.trainer evaluate`, as a process."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.trainer import encoder
from services.trainer.evaluation import score
from shared.model_store import Card, ModelStore
from tests.trainer.live import ROOT
from tests.trainer.made_pairs import make_pairs


def evaluate(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.trainer", "evaluate", *map(str, arguments)],
        cwd=ROOT, env=os.environ | {"PAIRWRIGHT_HOME": str(home)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def sts(tmp_path: Path) -> Path:
    """Two STS files on a scale to 5, and one of another format."""
    folder = tmp_path / "sts"
    folder.mkdir()
    for name, seed in (("one.test", 1), ("two.dev", 2)):
        lines = [f"{5 * pair.score}\t{pair.sentence1}\t{pair.sentence2}\tmade" for pair in make_pairs(40, seed)]
        text = "\n".join(["score\tsentence1\tsentence2\tsubset", *lines, ""])
        (folder / f"{name}.tsv.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "other.tsv.gz").write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
    return folder


def test_a_published_version_as_one_flat_json_object(tmp_path: Path, sts: Path, static_student: Path) -> None:
    store = ModelStore(tmp_path / "models" / "default")
    model = encoder.load(str(static_student), "test")
    with store.staging() as staged:
        encoder.save(model, staged)
        store.publish(staged, Card(base="test", round=0, pairs=0, dimensions=16), [[0.0]] * 4)
    result = evaluate(tmp_path, "current", "--sts", sts, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    expected = {
        name: score(
            lambda texts: encoder.encode(model, texts),
            [(pair.sentence1, pair.sentence2, pair.score) for pair in make_pairs(40, seed)],
        )
        for name, seed in (("one.test", 1), ("two.dev", 2))
    }
    assert list(found) == ["one.test", "two.dev", "average"]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.0051)
    assert found["average"] == pytest.approx(sum(expected.values()) / 2, abs=0.011)


def test_faults_are_one_line_each(tmp_path: Path, sts: Path, static_student: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {
        (str(static_student), str(tmp_path / "nowhere")): "--sts: there is no folder",
        (str(static_student), str(empty)): "has no *.tsv.gz file that begins with the line",
        ("r000007-01234567", str(sts)): "MODEL: there is no version 'r000007-01234567'; published: none yet",
        ("./nowhere", str(sts)): "MODEL: there is no folder './nowhere'",
        (str(empty), str(sts)): "holds none of modules.json, config.json",
    }
    for (model, folder), message in cases.items():
        result = evaluate(tmp_path, model, "--sts", folder)
        assert result.returncode == 1
        assert message in result.stderr
        assert result.stderr.startswith("pairwright trainer: ")
        assert result.stderr.count("\n") == 1
