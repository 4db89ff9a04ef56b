"""`make adapt`, as a process, on a tiny teacher and student: killed midway, it goes on; a wrong input is named."""

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from shared.model_store import ModelStore
from shared.ports import PORTS, port_setting
from tests.support.ports import free_port
from tests.support.tiny_system import random_student
from tests.support.tiny_teacher import make_tiny_teacher

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "scripts" / "demo_corpus.jsonl"
KEYS = {
    *("version", "folder", "base_folder", "documents", "passages", "queries", "pairs"),
    *("estimate_before", "estimate_after", "measured", "published", "seconds"),
}


def write_corpus(folder: Path, documents: int = 40) -> None:
    """Documents of words that the tiny teacher may write, and queries of four words of one."""
    folder.mkdir()
    draw = random.Random(3)
    texts = [" ".join(f"word{word}" for word in draw.sample(range(150), 24)) for _ in range(documents)]
    rows = [{"id": f"d{number}", "title": "", "text": text + "."} for number, text in enumerate(texts)]
    rows.insert(7, {"id": "empty", "title": "", "text": ""})
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"query": " ".join(text.split()[:4]), "relevant": [f"d{n}", "gone"]} for n, text in enumerate(texts[:20])]
    (folder / "judged").mkdir()
    (folder / "judged" / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    lines = "".join(f"{text.split()[0]}\t{text}\n" for text in texts * 2)
    (folder / "judged" / "topics.tsv").write_text(lines)


class Adapt:
    """`python -m scripts.adapt` in a home of its own."""

    def __init__(self, folder: Path) -> None:
        make_tiny_teacher(folder / "teacher")
        student = random_student({f"word{number}" for number in range(150)}, dimensions=16)
        student[0].embedding.weight.data[0] = 1.0  # what it doesn't know is a vector too: the gate refuses zeros
        student.save(str(folder / "student"), create_model_card=False)
        write_corpus(folder / "given")
        self.folder, self.ports = folder, {service: free_port() for service in PORTS}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PAIRWRIGHT_")},
            **{port_setting(service): str(port) for service, port in self.ports.items()},
            "PAIRWRIGHT_HOME": str(folder / "home"),
            "PAIRWRIGHT_TEACHER": str(folder / "teacher"),
            "PAIRWRIGHT_GENERATION_ENGINE": "transformers",
            "PAIRWRIGHT_GENERATION_DTYPE": "float32",
            "PAIRWRIGHT_GENERATION_MAX_LANES": "8",  # slow enough to be killed in the middle
            "PAIRWRIGHT_TRAINER_GATE": "off",  # a tiny student learns nothing from a tiny teacher's noise
            "PAIRWRIGHT_EMBEDDING_POLL_SECONDS": "0.1",
        }

    def start(self, corpus: str = "corpus.jsonl", student: str = "") -> "subprocess.Popen[str]":
        given = self.folder / "given"
        options = ["--student", student or str(self.folder / "student"), "--eval", str(given / "judged")]
        command = [sys.executable, "-m", "scripts.adapt", str(given / corpus), *options]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, text=True, **streams)  # type: ignore[call-overload,no-any-return]

    def finish(self, process: "subprocess.Popen[str]") -> tuple[str, dict[str, object]]:
        """What it printed, and its result."""
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, out[-3000:] + self.logs()
        return out, json.loads(out.splitlines()[-1])

    def wait_for_queries(self, process: "subprocess.Popen[str]", accepted: int) -> None:
        """Until the job has so many."""
        url, deadline = f"http://127.0.0.1:{self.ports['generation']}/jobs", time.monotonic() + 400
        while True:
            assert time.monotonic() < deadline, self.logs()  # a slow machine takes minutes to publish the base
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            try:
                jobs = httpx.get(url, timeout=10).raise_for_status().json()
            except (httpx.HTTPError, ValueError):  # a part was killed
                jobs = []
            if jobs and jobs[0]["accepted"] >= accepted:
                return
            time.sleep(0.05)

    def kill(self, process: "subprocess.Popen[str]", pattern: str) -> None:
        """With SIGKILL, as soon as it runs: the child whose command line has this pattern."""
        deadline = time.monotonic() + 400
        while True:
            assert time.monotonic() < deadline, f"no {pattern}" + self.logs()
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            for child in psutil.Process(process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if re.search(pattern, " ".join(child.cmdline())):
                        child.kill()
                        return
            time.sleep(0.05)

    def logs(self) -> str:
        """The ends of the services' logs."""
        files = sorted((self.folder / "home" / "logs").glob("*.log"))
        return "".join(f"\n--- {file.name}\n{file.read_text()[-1500:]}" for file in files)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_the_middle_it_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    adapt = Adapt(tmp_path)
    killed = adapt.start()
    adapt.kill(killed, "documents add")
    adapt.wait_for_queries(killed, accepted=3)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    running = adapt.start()
    for accepted, part in ((4, "valkey"), (6, "services.generation"), (8, "services.embedding")):
        adapt.wait_for_queries(running, accepted)
        adapt.kill(running, part)
    adapt.kill(running, "train --once")
    adapt.kill(running, "train --once")
    adapt.kill(running, "-m services.trainer$")
    out, result = adapt.finish(running)
    assert set(result) == KEYS
    assert result["documents"] == result["passages"] == 40
    assert result["published"] is True
    (dataset,) = (tmp_path / "home" / "datasets").iterdir()
    assert dataset.name.startswith("corpus-")
    with sqlite3.connect(dataset / "pairs.sqlite") as database:  # one job's, though two runs asked for it
        assert database.execute("SELECT count(*) FROM pair").fetchone()[0] == result["queries"]
    store = ModelStore(tmp_path / "home" / "models" / dataset.name)
    base, trained = store.versions()
    assert (base.round, trained.round, trained.id) == (0, 1, result["version"])
    assert result["folder"] == str(store.path(trained.id))
    assert result["base_folder"] == str(store.path(base.id))
    measured = result["measured"]
    assert isinstance(measured, dict)
    assert list(measured) == ["held-out", "judged", "topics"]
    assert measured["judged"]["before"]["mrr@10"]["value"] > 20  # by chance: 11
    assert "1 can't be read and are passed over" in out
    assert "line 8: text is empty" in " ".join(out.split())
    assert "Before and after" in out
    assert f"PAIRWRIGHT_DATASET={dataset.name}" in out

    out, again = adapt.finish(adapt.start())
    assert "Nothing new since the last round." in out
    assert {key: again[key] for key in KEYS - {"seconds"}} == {key: result[key] for key in KEYS - {"seconds"}}
    assert len(store.versions()) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_list_of_short_texts_is_learnt_from_the_teachers_embeddings(tmp_path: Path) -> None:
    adapt = Adapt(tmp_path)
    adapt.environment["PAIRWRIGHT_TRAINER_TEACHER_EMBEDDINGS"] = "1000"
    draw = random.Random(4)
    texts = [" ".join(f"word{word}" for word in draw.sample(range(150), draw.randint(3, 9))) for _ in range(240)]
    (tmp_path / "given" / "requests.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "given" / "judged" / "asked.jsonl").unlink()
    out, result = adapt.finish(adapt.start("requests.txt", "default"))
    assert set(result) == KEYS
    assert (result["documents"], result["queries"], result["pairs"]) == (240, 0, 0)
    assert list(result["measured"]) == ["topics"]  # type: ignore[call-overload]
    told = " ".join(out.split())
    assert "Each line is taken as a text of its own." in told
    assert "They are short texts" in told
    manifest = json.loads((Path(str(result["folder"])) / "manifest.json").read_text())
    assert manifest["training"]["teacher_embeddings"] == 240


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/none"], "CORPUS: there is no file or folder '{folder}/none'"),
        (["{folder}/empty"], "CORPUS: there is no file in '{folder}/empty'"),
        (["{folder}/blank.txt"], "CORPUS: the file '{folder}/blank.txt' is empty"),
        ([str(CORPUS), "--queries", "0"], "QUERIES: 0 is not a number of queries"),
        ([str(CORPUS), "--eval", "{folder}/none"], "EVAL: there is no file or folder '{folder}/none'"),
        ([str(CORPUS), "--eval", "{folder}/empty"], "EVAL: there is nothing to measure with in '{folder}/empty'"),
        ([str(CORPUS), "--eval", "{folder}/wrong"], "EVAL: {folder}/wrong/x.tsv, line 1: is not label<tab>text"),
        (
            [str(CORPUS), "--eval", "{folder}/asked.jsonl"],
            "EVAL: {folder}/asked.jsonl, line 2: is not a JSON object",
        ),
        ([str(CORPUS), "--student", "{folder}/empty"], "STUDENT: {folder}/empty holds none of modules.json"),
    ],
)
def test_wrong_input_is_one_line_that_names_it(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").touch()
    (tmp_path / "asked.jsonl").write_text('{"query": "q", "relevant": ["d"]}\n{"query": "q"}\n')
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "x.tsv").write_text("no tab\n")
    command = [sys.executable, "-m", "scripts.adapt", *(one.format(folder=tmp_path) for one in arguments)]
    environment = os.environ | {"PAIRWRIGHT_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("pairwright adapt: " + message.format(folder=tmp_path))
    assert not (tmp_path / "home").exists()


def test_the_shipped_corpus_and_its_queries_fit_together() -> None:
    documents = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    queries = [json.loads(line) for line in CORPUS.with_name("demo_queries.jsonl").read_text("utf-8").splitlines()]
    ids = {document["id"] for document in documents}
    assert len(ids) == len({document["text"] for document in documents}) == len(documents) > 290
    assert all(40 <= len(document["text"].split()) <= 120 for document in documents)
    assert len({query["query"] for query in queries}) == len(queries) == 60
    assert all(query["relevant"] and ids.issuperset(query["relevant"]) for query in queries)
