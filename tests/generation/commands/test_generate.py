"""`python -m services.generation generate`: files, resumed by running the command again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import httpx
import pytest

from services.generation.commands.generate import prepare
from services.generation.commands.journal import Journal
from services.generation.commands.options import make_plan, parse, read_inputs
from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.pairs.corpus_source import CorpusSource
from services.generation.pairs.plan import Plan, ResolvedPlan, plan_hash
from services.generation.pairs.tasks import load_all_tasks
from services.generation.pairs.work_item import WorkItemResult
from services.generation.settings import GenerationSettings
from shared.errors import Fatal
from shared.queue import EmbeddedServer
from shared.settings import Settings
from tests.support.generation import live_generation
from tests.support.generation_process import environment, generate

NUMBER = 120
NOWHERE = "http://127.0.0.1:9"
"""Where no trainer is."""


@pytest.mark.vllm
@pytest.mark.timeout(400)
def test_a_killed_command_goes_on_and_writes_the_service_s_pairs(
    engine: VllmEngine, server: EmbeddedServer, dataset: str, tiny_teacher: Path, tmp_path: Path
) -> None:
    out, plan = tmp_path / "deep" / "pairs.jsonl", tmp_path / "plan.json"
    body = {"num_inputs": NUMBER, "decoding": {"top_k": 0, "top_p": 1.0}}
    plan.write_text(json.dumps(body))
    arguments = ["--task", "nli", "--plan", str(plan), "--seed", "3", "--out", str(out)]
    settings = environment(tmp_path, tiny_teacher, PAIRWRIGHT_GENERATION_MAX_LANES="8")  # slow enough to be killed
    journal = out.with_name("pairs.jsonl.journal")

    command = [sys.executable, "-m", "services.generation", "generate", *arguments]
    with subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 30:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    with journal.open("ab") as file:
        file.write(b'{"torn": ')
    before = journal.read_bytes().count(b"\n") - 1
    assert before < NUMBER

    done = generate(arguments, settings)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert "pairs, " in done.stderr  # the bar
    assert "warning" not in done.stderr.lower()  # vLLM's own are about what nobody can act on
    pairs = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(pairs) == summary["accepted"]
    with live_generation(engine, server.url, dataset) as client:
        job = client.post("/generate", json=body | {"task": "nli", "seed": 3}, headers={"Prefer": "wait=120"}).json()
    assert pairs == job["pairs"]
    assert summary["rejected_by_reason"] == job["rejected_by_reason"]

    card = (tmp_path / "deep" / "pairs.card.md").read_text()
    assert f"| pairs | {len(pairs)} of {job['requested']} asked for" in card
    assert "entailment" in card
    assert 'data_files: "pairs.jsonl"' in card
    # Once more: nothing is left to do, and no engine is started for it.
    again = generate(arguments, settings | {"PAIRWRIGHT_GENERATION_VLLM_ARGUMENTS": '{"load_format": "no such"}'})
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) | {"seconds": 0} == summary | {"seconds": 0}
    # With another plan the journal is not gone on with: one line on stderr.
    other = generate([*arguments[:-4], "--seed", "4", "--out", str(out)], settings)
    assert other.returncode == 1
    assert other.stderr.strip().splitlines()[-1].startswith("pairwright generation: --out: ")
    assert "was begun with another plan" in other.stderr
    assert "Traceback" not in other.stderr


INPUTS = {
    "lines.txt": "word1 word2.\n\nword3 word4.\nword1 word2.\n",
    "original.jsonl": '{"text_a": "word1 word2.", "text_b": "", "label": "1"}\n{"text_a": "word3 word4."}\n',
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give inputs (sentences), num_inputs"),
        (["--inputs", "nowhere.txt"], "--inputs: nowhere.txt: can't be read: No such file or directory"),
        (["--inputs", "table.xlsx"], "--inputs: table.xlsx: a file must end in .txt, .csv"),
        (["--num-inputs", "3", "--task", "nope"], "--task: there is no task 'nope'; known: nli"),
        (["--num-inputs", "3", "--task", "nope.json"], "--task: nope.json: "),
        (["--num-inputs", "3", "--labels", "1", "7"], "--labels: task 'sts' has no label '7'; it has 1, 0.5, 0"),
        (["--num-inputs", "0"], "--num-inputs: "),
        (["--num-inputs", "3", "--plan", "nowhere.json"], "--plan: nowhere.json: "),
        (["--num-inputs", "3", "--out", "/proc/no/pairs.jsonl"], "--out: /proc/no/pairs.jsonl.journal: "),
        (["--num-inputs", "3", "--out", "/tmp"], "--out: /tmp is a folder; name a file"),
        (["--num-inputs", "3", "--rejected", "/no/such/x.jsonl"], "--rejected: there is no folder /no/such"),
        (["--num-inputs", "3", "--push-to-hub", "me/mine"], "--push-to-hub: there is no token; set HF_TOKEN"),
    ],
)
def test_wrong_options_are_one_clear_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    options = parse(["generate", "--out", str(tmp_path / "pairs.jsonl"), *arguments])
    with pytest.raises(Fatal, match=re.escape(message)) as error:
        prepare(options, Settings(), GenerationSettings(), CorpusSource(NOWHERE))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "Missing option '--out'"),
        (["generate", "--out", "x", "--seed", "first"], "Invalid value for '--seed'"),
        (["generate", "--out", "x", "--preset", "none"], "'none' is not one of 'default', 'dino'"),
        (["generate", "--out", "x", "--nope"], "No such option: --nope"),
        (["serve"], "No such command 'serve'"),
    ],
)
def test_what_is_no_option_ends_with_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "\ufeffOne.\r\n\r\n  Two\tthree. \r\nOne.\r\n"),
        ("a", "One.\nTwo three.\n"),
        ("a.csv", '\ufeffText,other\r\n"One.",1\r\nTwo three.,\r\n'),
        ("a.csv", "sep=;\nother;Sentence 1\n1;One.\n2;Two three.\n"),
        ("a.tsv", "sentence\tother\nOne.\t1\nTwo three.\t2\n"),
        ("a.json", '[\n{"text_a": "One."},\n{"text_a": "Two\u2028three."}\n]'),
        ("a.json", '["One.", "Two three."]'),
        ("a.jsonl", '{"sentence1": "One."}\n\n{"sentence1": "Two\u2028three.", "score": 1}\n'),
    ],
)
def test_inputs_are_read_as_people_have_them(name: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8", newline="")
    assert read_inputs(file) == ["One.", "Two three."]


def test_a_bad_input_is_named_by_its_line_or_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": "One."}\n\n{"a": null}\n{"a": 5}\nNone\n{"a": "Two\\nthree."}\n{"a": "Four."}\n')
    for column, told in (
        (None, "line 1: has no sentence1 (nor text_a, sentence, text); its columns are 'a'; --column NAME says which"),
        ("A", "line 3: A is empty; mend it, or pass over such rows with --skip-bad"),
    ):
        with pytest.raises(Fatal, match=re.escape(f"--inputs: {file}, {told}")):
            read_inputs(file, column)
    assert read_inputs(file, "a", skip_bad=True) == ["One.", "Four."]
    assert f"4 rows of {file} were passed over; the first, line 3: a is empty" in capsys.readouterr().err
    with pytest.raises(Fatal, match="holds no sentence; line 1: has no b"):
        read_inputs(file, "b", skip_bad=True)
    arguments = ["--inputs", str(file), "--column", "a", "--skip-bad"]
    assert make_plan(parse(["generate", "--out", "x", *arguments]), None).inputs == ["One.", "Four."]


def test_options_are_fields_of_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.dumps({"seed": 1, "attempts": 2, "num_inputs": 3})
    (tmp_path / "plan.json").write_text(body, encoding="utf-8-sig")  # as Windows' Notepad may write it
    arguments = ["--plan", str(tmp_path / "plan.json"), "--labels", "0", "1", "--seed", "5", "--prompt-form", "plain"]
    plan = make_plan(parse(["generate", "--out", "x", *arguments]), None)
    assert (plan.labels, plan.seed, plan.attempts, plan.prompt_form) == (["0", "1"], 5, 2, "plain")
    with pytest.raises(SystemExit) as end:
        parse(["generate", "--help"])
    assert not end.value.code
    assert "--push-to-hub" in capsys.readouterr().out


def test_a_journal_of_another_program_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    plan = Plan(num_inputs=3).resolve(load_all_tasks(None))
    with Journal.open(out, plan, "teacher"):
        pass
    journal = out.with_name("pairs.jsonl.journal")
    journal.write_text(journal.read_text() + '{"samples": "many"}\n')
    before = journal.read_bytes()
    with pytest.raises(Fatal, match="was begun with another program"):
        Journal.open(out, plan, "teacher")
    with pytest.raises(Fatal, match="was begun with another teacher"):
        Journal.open(out, plan, "another teacher")
    assert journal.read_bytes() == before


def test_a_journal_belongs_to_what_a_plan_asks_for(tmp_path: Path) -> None:
    tasks = load_all_tasks(None)
    plan = Plan(num_inputs=3, task="nli").resolve(tasks)
    label = plan.task.labels["neutral"].model_copy(update={"label_accuracy": 0.123})
    graded = plan.task.model_copy(update={"description": "Better.", "labels": plan.task.labels | {"neutral": label}})
    same = [
        Plan(num_inputs=3, task="nli", seed=42, dry_run=True).resolve(tasks),
        Plan(num_inputs=3, task=graded).resolve(tasks),
    ]
    assert {plan_hash(one) for one in same} == {plan_hash(plan)}
    assert plan_hash(Plan(num_inputs=3, task="nli", seed=43).resolve(tasks)) != plan_hash(plan)
    asked = plan.task.labels["neutral"].model_copy(update={"instruction": 'Write "<X1>" anew: "'})
    other = plan.task.model_copy(update={"labels": plan.task.labels | {"neutral": asked}})
    assert plan_hash(Plan(num_inputs=3, task=other).resolve(tasks)) != plan_hash(plan)


class NewField(ResolvedPlan):
    """The plan of a later version."""

    brand_new: int = 7


def test_an_upgrade_with_a_new_field_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    plan = Plan(num_inputs=3).resolve(load_all_tasks(None))
    with Journal.open(out, plan, "teacher") as journal:
        journal.add(WorkItemResult(samples=3))
    later = NewField.model_construct(**dict(plan), brand_new=7)
    with Journal.open(out, later, "teacher") as journal:
        assert [result.samples for result in journal.results] == [3]
    with pytest.raises(Fatal, match="was begun with another plan"):
        Journal.open(out, later.model_copy(update={"brand_new": 8}), "teacher")


def test_a_journal_of_the_release_before_goes_on(tmp_path: Path) -> None:
    # Its first line as 0.1 wrote it for this plan, whose task is spelled out so that it stays what it was.
    label = {"instruction": 'Say it: "<X1>" "', "counter_labels": [], "score": 1.0, "exemplars": []}
    plan = Plan.model_validate(
        {"task": {"task_name": "x", "labels": {"1": label}}, "num_inputs": 3, "topics": [], "genres": []}
    ).resolve({})
    out = tmp_path / "pairs.jsonl"
    line = '{"plan": "13ee26b2585b4c9b9874e471a97082f1cfc1eeb55dd94401e9630d8e4acc9855", "teacher": "t"}\n'
    out.with_name("pairs.jsonl.journal").write_text(line + '{"samples": 2}\n')
    with Journal.open(out, plan, "t") as journal:
        assert [result.samples for result in journal.results] == [2]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = open(os.open("/dev/full", os.O_WRONLY), "w", encoding="utf-8")  # noqa: SIM115 - the journal closes it
    message = "No space left on device: what was written so far is kept"
    with pytest.raises(Fatal, match=message), Journal(full, []) as journal:
        journal.add(WorkItemResult())
    plan = Plan(pairs=10**15).resolve(load_all_tasks(None))
    with pytest.raises(Fatal, match=r"pairs need about \d+ MB, and \d+ MB are free"):
        Journal.open(tmp_path / "pairs.jsonl", plan, "teacher")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_chat_form_needs_a_chat_template_and_rejected_texts_are_written(tiny_teacher: Path, tmp_path: Path) -> None:
    settings = environment(tmp_path, tiny_teacher, PAIRWRIGHT_GENERATION_ENGINE="transformers")
    out, rejected, plan = (tmp_path / name for name in ("pairs.jsonl", "rejected.jsonl", "plan.json"))
    plan.write_text(json.dumps({"inputs": ["Der Zug aus München ist ausgefallen."], "decoding": {"max_tokens": 2}}))
    arguments = ["--plan", str(plan), "--out", str(out), "--rejected", str(rejected)]
    refused = generate([*arguments, "--prompt-form", "chat"], settings)
    assert refused.returncode == 1
    message = "pairwright generation: --prompt-form: the teacher has no chat template"
    assert refused.stderr.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in refused.stderr
    out.with_name("pairs.jsonl.journal").unlink()

    done = generate(arguments, settings)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "warning: the given sentences are in 'de', and the teacher" in done.stderr
    summary, rows = json.loads(done.stdout), [json.loads(line) for line in rejected.read_text().splitlines()]
    assert str(rejected) in summary["files"]
    assert Counter(row["reason"] for row in rows) == summary["rejected_by_reason"]
    assert {row["sentence1"] for row in rows} == {"Der Zug aus München ist ausgefallen."}


class Hub(BaseHTTPRequestHandler):
    """Enough of the hub's protocol for one commit of small files; keeps what it was sent."""

    calls: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.calls.append((self.path, body))
        base = f"http://{self.headers['Host']}"
        answer: dict[str, object] = {"url": f"{base}/datasets/me/mine", "name": "me/mine"}
        if "preupload" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            answer = {"files": files}
        elif "/commit/" in self.path:
            answer = {"success": True, "commitUrl": f"{base}/datasets/me/mine/commit/0", "commitOid": "0"}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.calls = []
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_dino_preset_writes_both_files_and_pushes_them(tiny_teacher: Path, tmp_path: Path, hub: str) -> None:
    for name, text in INPUTS.items():
        (tmp_path / name).write_text(text)
    settings = environment(
        tmp_path,
        tiny_teacher,
        PAIRWRIGHT_GENERATION_ENGINE="transformers",
        HF_TOKEN="hf_test",
        HF_ENDPOINT=hub,
        HF_HUB_OFFLINE="0",
        HF_HUB_DISABLE_XET="1",
    )
    made = {}
    for name in INPUTS:
        out = tmp_path / f"{name}.pairs.jsonl"
        arguments = ["--preset", "dino", "--inputs", str(tmp_path / name), "--out", str(out)]
        done = generate([*arguments, *(["--push-to-hub", "me/mine"] if name == "lines.txt" else [])], settings)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout)["requested"] == 12  # two different sentences, three labels, two of each
        made[name] = out.read_text()
    assert made["lines.txt"] == made["original.jsonl"]
    rows = [json.loads(line) for line in (tmp_path / "lines.txt.pairs.postprocessed.jsonl").read_text().splitlines()]
    assert sum(row["score"] == 0.0 for row in rows) in (2, 4)
    path, commit = next(call for call in Hub.calls if "/commit/" in call[0])
    assert path.startswith("/api/datasets/me/mine/commit/main")
    sent = {json.loads(line)["value"]["path"] for line in commit.splitlines()[1:]}
    assert sent == {"README.md", "lines.txt.pairs.jsonl", "lines.txt.pairs.postprocessed.jsonl"}
    assert httpx.get(f"{hub}/x").status_code == 501  # it is no more than it says
    assert os.environ.get("HF_TOKEN") != "hf_test"
