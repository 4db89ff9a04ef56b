"""Task specs, prompt texts, the cut at the quote and the filters: tables."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.engines.vocabulary import cut
from services.generation.filters import normalised, reject
from services.generation.generator import Plan, sample_seed
from services.generation.prompts import lanes_for_sentence2, sentence1_prompt
from services.generation.tasks import BUILT_IN, BadTask, UnknownTask, load_task, load_tasks

ORIGINAL = {
    "task_name": "sts",
    "labels": {
        "1": {"instruction": 'Task: Same.\nSentence 1: "<X1>"\nSentence 2: "', "counter_labels": []},
        "0": {"instruction": 'Task: Other.\nSentence 1: "<X1>"\nSentence 2: "', "counter_labels": ["1"]},
    },
}


def written(folder: Path, spec: object) -> Path:
    file = folder / "task.json"
    file.write_text(spec if isinstance(spec, str) else json.dumps(spec))
    return file


def test_the_original_spec_loads_with_scores_from_its_labels(tmp_path: Path) -> None:
    spec = load_task(written(tmp_path, ORIGINAL))
    assert {name: label.score for name, label in spec.labels.items()} == {"1": 1.0, "0": 0.0}
    assert lanes_for_sentence2(spec, "0", "Hello there.", exemplars=2) == (
        'Task: Other.\nSentence 1: "Hello there."\nSentence 2: "',
        'Task: Same.\nSentence 1: "Hello there."\nSentence 2: "',
    )
    assert sentence1_prompt(spec.labels["1"], exemplars=2) == 'Task: Same.\nSentence 1: "'


def test_built_in_sts_is_the_papers() -> None:
    sts = load_tasks([BUILT_IN]).get("sts")
    assert {name: label.counter_labels for name, label in sts.labels.items()} == {
        "1": (),
        "0.5": ("1",),
        "0": ("1", "0.5"),
    }
    assert sts.labels["0"].instruction == (
        'Task: Write two sentences that are on completely different topics.\nSentence 1: "<X1>"\nSentence 2: "'
    )
    prompt = lanes_for_sentence2(sts, "1", "X.", exemplars=1)[0]
    first, second = sts.labels["1"].exemplars[0]
    assert prompt == (
        f'Task: Write two sentences that mean the same thing.\nSentence 1: "{first}"\nSentence 2: "{second}"\n\n'
        'Task: Write two sentences that mean the same thing.\nSentence 1: "X."\nSentence 2: "'
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {}}, "labels"),
        ({"task_name": "a b"}, "task_name"),
        ({"labels": {"1": {"instruction": "Say <X1>: "}}}, "labels.1: instruction: must end with an opening double"),
        ({"labels": {"1": {"instruction": 'Say: "'}}}, "labels.1: instruction: must hold <X1> exactly once"),
        ({"labels": {"1": {"instruction": '<X1> "', "counter_labels": ["2"]}}}, "labels.1.counter_labels: '2'"),
        ({"labels": {"1": {"instruction": '<X1> "', "counter_labels": ["1"]}}}, "labels.1.counter_labels: '1'"),
        ({"labels": {"good": {"instruction": '<X1> "'}}}, "labels.good.score: give a score"),
        ({"labels": {"1": {"instruction": '<X1> "', "extra": 1}}}, "labels.1.extra"),
        ("{", "task.json"),
    ],
)
def test_a_wrong_spec_names_the_place(tmp_path: Path, change: dict[str, object] | str, message: str) -> None:
    spec = change if isinstance(change, str) else ORIGINAL | change
    with pytest.raises(BadTask) as error:
        load_task(written(tmp_path, spec))
    assert message in str(error.value)
    assert "task.json" in str(error.value)


def test_unknown_task_lists_the_known() -> None:
    with pytest.raises(UnknownTask, match=r"'nope'; known: sts"):
        load_tasks([BUILT_IN]).get("nope")


@pytest.mark.parametrize(
    ("text", "sentence", "closed"),
    [
        ('guitar."', "guitar.", True),
        ('guitar." and more', "guitar.", True),
        (" guitar", "guitar", False),
        ('"', "", True),
        ('He said "no"', "He said", True),
    ],
)
def test_cut(text: str, sentence: str, closed: bool) -> None:
    assert cut(text) == (sentence, closed)


@pytest.mark.parametrize(
    ("sentence1", "sentence2", "reason"),
    [
        ("A cat sleeps.", "The cat is asleep.", None),
        ("A cat sleeps.", "a  CAT sleeps", "copy"),
        ("A cat sleeps.", "", "unreadable"),
        ("A cat sleeps.", "   ", "unreadable"),
        ("A cat sleeps.", "one\x85two", "unreadable"),
        ("A cat sleeps.", "broken \ufffd character", "unreadable"),
        ("A cat sleeps.", "x" * 3000, "unreadable"),
        ("A cat sleeps.", "?!.", "too_short"),
        ("A cat sleeps.", "Task: Write two sentences.", "echo"),
        ("A cat sleeps.", "Sentence 2: The cat", "echo"),
        ("A cat sleeps.", "The task was hard.", None),
        ("Straße", "STRASSE!", "copy"),
        ("", "A first sentence.", None),
    ],
)
def test_filters(sentence1: str, sentence2: str, reason: str | None) -> None:
    assert reject(sentence1, sentence2) == reason


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_every_part_changes_the_seed() -> None:
    base = ("job", "sts", "0.5", 3, 1, 0)
    seeds = {sample_seed(*base[:i], "other", *base[i + 1 :]) for i in range(len(base))} | {sample_seed(*base)}
    assert len(seeds) == len(base) + 1
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_plan_counts_its_pairs() -> None:
    sts = load_tasks([BUILT_IN]).get("sts")
    plan = Plan(inputs=["One.", "Two."], labels=["1", "0", "1"], pairs_per_label=3)
    assert plan.labels_of(sts) == ["1", "0"]
    assert plan.pairs_requested(sts) == 12
    assert Plan(num_inputs=5).pairs_requested(sts) == 15
