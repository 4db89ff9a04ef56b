"""The whole loop on the default teacher and student: `make demo`, with fewer sentences."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.manifest import VERSION_ID
from shared.model_store import ModelStore
from shared.ports import PORTS, port_setting
from tests.support.ports import free_port

STS_ROWS = [
    ("5.0", "A man is playing a guitar.", "A man plays the guitar."),
    ("4.0", "A dog runs over the grass.", "A dog is running on the lawn."),
    ("2.0", "A woman is cooking soup.", "A woman is eating soup."),
    ("1.0", "The train was late.", "The bus arrived on time."),
    ("0.0", "The stock market fell.", "A cat sleeps on the sofa."),
]


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_the_demo_trains_a_version_that_answers(tmp_path: Path) -> None:
    sts = tmp_path / "sts"
    sts.mkdir()
    with gzip.open(sts / "tiny.test.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("score\tsentence1\tsentence2\tsubset\n")
        file.writelines(f"{score}\t{one}\t{two}\ttest\n" for score, one, two in STS_ROWS)
    environment = {
        **os.environ,
        "PAIRWRIGHT_HOME": str(tmp_path / "home"),
        **{port_setting(service): str(free_port()) for service in PORTS},
    }
    command = [sys.executable, "-m", "scripts.demo", "--inputs", "40", "--sts", str(sts)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + logs(tmp_path)

    lines = done.stdout.strip().splitlines()
    result = json.loads(lines[-1])
    assert set(result) == {
        *("pairs", "rejected", "version", "spearman_before", "spearman_after", "sts_before", "sts_after", "seconds")
    }
    assert 60 <= result["pairs"] <= 120
    assert VERSION_ID.match(result["version"])
    assert set(result["seconds"]) == {"setup", "generate", "train", "swap"}
    assert set(result["sts_before"]) == set(result["sts_after"]) == {"tiny.test", "average"}
    # At no terminal too it says what goes on.
    assert lines[0].startswith("starting: ")
    assert any(line.startswith("trainer: ") for line in lines)
    assert "Nearest sentences" in done.stdout
    assert "/docs" in done.stdout
    assert lines[-2].endswith("/console")

    store = ModelStore(tmp_path / "home" / "demo" / "models" / "demo")
    base, trained = store.versions()
    assert (base.round, trained.round, trained.id) == (0, 1, result["version"])
    assert trained.pairs == result["pairs"]
    assert base.probe != trained.probe
    assert result["spearman_after"] == trained.scores["dev_after"]
    store.verify(trained.id)


def logs(tmp_path: Path) -> str:
    """The end of every service's log."""
    files = sorted((tmp_path / "home" / "demo" / "logs").glob("*.log"))
    return "".join(f"\n--- {file.name}\n{file.read_text()[-2000:]}" for file in files)
