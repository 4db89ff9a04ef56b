"""`python -m services.trainer evaluate`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from services.trainer.evaluation.sts import score
from services.trainer.models import encoder
from shared.manifest import Card
from shared.model_store import ModelStore
from tests.support.command_line import failure, run_command
from tests.support.pairs import make_pairs
from tests.support.trainer import ROOT


def evaluate(home: Path, *arguments: object) -> str:
    return run_command(home, "evaluate", *arguments)


@pytest.mark.slow
def test_a_published_version_as_one_flat_json_object(tmp_path: Path, sts: Path, static_student: Path) -> None:
    store = ModelStore(tmp_path / "models" / "default")
    model = encoder.load(str(static_student), "test")
    with store.staging() as staged:
        encoder.save(model, staged)
        store.publish(staged, Card(base="test", round=0, pairs=0, dimensions=16), [[0.0]] * 4)
    command = [sys.executable, "-m", "services.trainer", "evaluate", "current", "--sts", str(sts), "--json"]
    environment = os.environ | {"PAIRWRIGHT_HOME": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    expected = {
        name: score(
            lambda texts: encoder.encode(model, texts),
            [(pair.sentence1, pair.sentence2, pair.score) for pair in make_pairs(40, seed)],
        )
        for name, seed in (("one.test", 1), ("two.dev", 2))
    }
    assert list(printed) == ["one.test", "two.dev", "average"]
    for name, value in expected.items():
        assert printed[name] == pytest.approx(value, abs=0.0051)
    assert printed["average"] == pytest.approx(sum(expected.values()) / 2, abs=0.011)


def test_what_is_wrong_is_one_line(tmp_path: Path, sts: Path, static_student: Path) -> None:
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
        assert message in failure(tmp_path, "evaluate", model, "--sts", folder)


@pytest.mark.slow
def test_details_tell_how_sure_a_score_is(tmp_path: Path, sts: Path, static_student: Path) -> None:
    one = json.loads(evaluate(tmp_path, static_student, "--sts", sts, "--json", "--details"))["sets"]["one.test"]
    assert one["pairs"] == 40
    assert one["low"] < one["spearman"] < one["high"]
    assert one["subsets"] == {"made": {"pairs": 40, "spearman": one["spearman"]}}
    model = encoder.load(str(static_student), "test")
    unit = {
        text: vector / np.linalg.norm(vector)
        for pair in make_pairs(40, 1)
        for text, vector in zip(
            (pair.sentence1, pair.sentence2), encoder.encode(model, [pair.sentence1, pair.sentence2]), strict=True
        )
    }
    positives = [pair for pair in make_pairs(40, 1) if pair.score == 1]
    distances = [np.sum((unit[pair.sentence1] - unit[pair.sentence2]) ** 2) for pair in positives]
    assert one["alignment"] == pytest.approx(np.mean(distances), abs=1e-3)
    texts = sorted(unit)
    others = [np.exp(-2 * np.sum((unit[a] - unit[b]) ** 2)) for i, a in enumerate(texts) for b in texts[:i]]
    assert one["uniformity"] == pytest.approx(np.log(np.mean(others)), abs=1e-3)
    text = evaluate(tmp_path, static_student, "--sts", sts)
    assert "interval" in text
    assert f"{one['low']:.2f} to {one['high']:.2f}" in text


def test_any_file_of_scored_pairs_is_taken(tmp_path: Path, static_student: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair.model_dump()) + "\n" for pair in make_pairs(40, 1)))
    assert json.loads(evaluate(tmp_path, static_student, "--data", file, "--json")).keys() == {str(file), "average"}


def test_what_cannot_be_scored_on_is_said(tmp_path: Path, static_student: Path) -> None:
    for arguments, message in (
        ((), "name what to score on, with --sts DIR, --beir DIR"),
        (("--data", "./none.csv"), "--data: there is no file './none.csv'"),
        (("--data", "nobody/nothing"), "--data: can't get 'nobody/nothing' from the hub"),
        (("--mteb", "STS12"), "--mteb: "),
    ):
        assert message in failure(tmp_path, "evaluate", static_student, *arguments)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A BEIR folder, labelled texts with and without a header, and marked pairs, of one vocabulary."""
    folder = tmp_path / "search"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "title": f"noun{n}", "text": f"sees the noun{n + 1}"} for n in range(40)]
    queries = [{"_id": f"q{n}", "text": f"the noun{n}"} for n in range(40)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    qrels = "".join(f"q{n}\td{n}\t1\nq{n}\td{n + 1}\t0\n" for n in range(39))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    lines = "".join(f"noun{n % 3}\tthe noun{n % 3} sees a noun{n}\n" for n in range(3, 30))
    for name, head in (("intents", ""), ("test", "label\ttext\n")):
        (tmp_path / f"{name}.tsv").write_text(head + lines)
    pairs = [pair for pair in make_pairs(60, 1) if pair.score != 0.5]
    marked: list[dict[str, str | int]] = [
        {"sentence1": pair.sentence1, "sentence2": pair.sentence2, "label": int(pair.score)} for pair in pairs
    ]
    (tmp_path / "marked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in marked))
    return tmp_path


@pytest.mark.slow
def test_judgements_in_the_forms_that_they_come_in(judged: Path, sts: Path, static_student: Path) -> None:
    options = ["--sts", sts, "--beir", judged / "search", "--labelled", judged / "intents.tsv"]
    options += ["--labelled", judged / "test.tsv", "--pairs", judged / "marked.jsonl"]
    printed = json.loads(evaluate(judged, static_student, *options, "--json"))
    assert list(printed) == [
        "one.test", "two.dev", "search.ndcg@10", "search.recall@10", "search.mrr@10",
        *(f"{name}.{key}" for name in ("intents", f"{judged.name}.test") for key in ("v", "nearest", "map")),
        "marked.ap", "average",
    ]  # fmt: skip
    assert printed["search.recall@10"] > 90  # a query shares a word with its document
    assert printed["intents.v"] == printed[f"{judged.name}.test.v"]
    assert printed["average"] == pytest.approx((printed["one.test"] + printed["two.dev"]) / 2, abs=0.011)
    details = json.loads(evaluate(judged, static_student, *options, "--json", "--details"))["sets"]
    assert details["search"]["size"] == "39 queries, 40 documents"
    assert details["marked"]["ap"]["low"] <= printed["marked.ap"] <= details["marked"]["ap"]["high"]
    lines = evaluate(judged, static_student, *options).splitlines()
    assert [line.split()[0] for line in lines[1:7]] == [
        "one.test", "two.dev", "search", "intents", f"{judged.name}.test", "marked",
    ]  # fmt: skip


@pytest.mark.slow
def test_two_students_are_compared_item_by_item(judged: Path, sts: Path, static_student: Path) -> None:
    flat, random = encoder.load(str(static_student), "test"), np.random.default_rng(5)
    words, dimensions = encoder.token_embeddings(flat).shape
    # Two dimensions are too few to tell forty documents apart.
    table = random.standard_normal((words, 2)) @ random.standard_normal((2, dimensions))
    encoder.set_token_embeddings(flat, table.astype(np.float32))
    encoder.save(flat, judged / "other")
    options = ["--beir", judged / "search", "--pairs", judged / "marked.jsonl", "--sts", sts, "--json"]
    compared = json.loads(evaluate(judged, judged / "other", "--against", static_student, *options))
    assert list(compared) == ["one.test", "two.dev", "search", "marked"]
    search = compared["search"]
    alone = json.loads(evaluate(judged, static_student, "--beir", judged / "search", "--json"))
    for key, change in search["change"].items():
        before, after = search["before"][key], search["after"][key]
        assert before["value"] == alone[f"search.{key}"]
        assert change["value"] == pytest.approx(after["value"] - before["value"], abs=0.011)
        assert change["low"] <= change["value"] <= change["high"]
        assert change["high"] < 0
    assert compared["marked"]["change"]["ap"]["low"] is None  # it is no mean over items
    for example in search["examples"]:
        assert example["before"]["document"] != example["after"]["document"]
    same = json.loads(evaluate(judged, static_student, "--against", static_student, *options))["search"]
    assert same["change"]["ndcg@10"] == {"value": 0, "low": 0, "high": 0}
    assert same["examples"] == []
    message = failure(judged, "evaluate", static_student, "--against", "./none", *options)
    assert "--against: there is no folder './none'" in message


def test_a_wrong_judgement_is_said_before_anything_is_encoded(judged: Path, static_student: Path) -> None:
    (judged / "bare").mkdir()
    (judged / "lines.tsv").write_text("a\tone text\nno tab\n")
    (judged / "graded.jsonl").write_text(json.dumps({"sentence1": "a", "sentence2": "b", "score": 0.5}) + "\n")
    for option, name, message in (
        ("--beir", "bare", "corpus.jsonl'; a BEIR folder has corpus.jsonl and queries.jsonl"),
        ("--labelled", "none.tsv", "--labelled: there is no file"),
        ("--labelled", "lines.tsv", "lines.tsv, line 2: is not label<tab>text"),
        ("--pairs", "graded.jsonl", "graded.jsonl, line 1: the label 0.5 is neither 0 nor 1; --data takes scores"),
    ):
        assert message in failure(judged, "evaluate", static_student, option, judged / name)
    (judged / "search" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\tyes\n")
    expected = "test.tsv, line 2: the score 'yes' is not a number"
    assert expected in failure(judged, "evaluate", static_student, "--beir", judged / "search")


@pytest.mark.slow
def test_what_is_measured_stays_when_a_later_set_fails(judged: Path, sts: Path, static_student: Path) -> None:
    (judged / "alike.tsv").write_text("a\tone\na\ttwo\n")
    command = [sys.executable, "-m", "services.trainer", "evaluate", str(static_student), "--json"]
    command += ["--sts", str(sts), "--labelled", str(judged / "alike.tsv")]
    environment = os.environ | {"PAIRWRIGHT_HOME": str(judged)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "alike.tsv: no score: all texts have one label" in result.stderr
    assert [line.split()[0] for line in result.stderr.splitlines()[1:3]] == ["one.test", "two.dev"]
