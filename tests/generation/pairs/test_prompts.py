"""Task specs, prompt texts, the cut at the quote and the filters: tables."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.decoding.tokenizer import cut
from services.generation.pairs.comparison import normalised
from services.generation.pairs.plan import InvalidPlan, Plan, ResolvedPlan
from services.generation.pairs.prompts import lanes_for, sentence1_prompt, topical_prompt
from services.generation.pairs.seeds import sample_seed
from services.generation.pairs.tasks import InvalidTask, load_all_tasks, load_task

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
    assert tuple(prompt.text for prompt in lanes_for(spec, "0", "Hello there.", range(2))) == (
        'Task: Other.\nSentence 1: "Hello there."\nSentence 2: "',
        'Task: Same.\nSentence 1: "Hello there."\nSentence 2: "',
    )
    assert sentence1_prompt(spec, "1", range(2)).text == 'Task: Same.\nSentence 1: "'


def test_built_in_sts_is_the_papers() -> None:
    sts = load_all_tasks(None)["sts"]
    assert {name: label.counter_labels for name, label in sts.labels.items()} == {
        "1": (),
        "0.5": ("1",),
        "0": ("1", "0.5"),
    }
    assert sts.labels["0"].instruction == (
        'Task: Write two sentences that are on completely different topics.\nSentence 1: "<X1>"\nSentence 2: "'
    )
    prompt = lanes_for(sts, "1", "X.", [0])[0].text
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
        ({"labels": {"1": {"instruction": '<X1> <X1> "'}}}, "labels.1: instruction: must hold <X1> exactly once"),
        (
            {"labels": {"1": {"instruction": 'Say: "'}, "0": {"instruction": '<X1> "'}}},
            "either every instruction holds <X1> exactly once, or none does",
        ),
        ({"labels": {"1": {"instruction": '<X1> "', "counter_labels": ["2"]}}}, "labels.1.counter_labels: '2'"),
        ({"labels": {"1": {"instruction": '<X1> "', "counter_labels": ["1"]}}}, "labels.1.counter_labels: '1'"),
        ({"labels": {"good": {"instruction": '<X1> "'}}}, "labels.good.score: give a score"),
        ({"labels": {"1": {"instruction": '<X1> "', "extra": 1}}}, "labels.1.extra"),
        ("{", "task.json"),
    ],
)
def test_a_wrong_spec_names_the_place(tmp_path: Path, change: dict[str, object] | str, message: str) -> None:
    spec = change if isinstance(change, str) else ORIGINAL | change
    with pytest.raises(InvalidTask) as error:
        load_task(written(tmp_path, spec))
    assert message in str(error.value)
    assert "task.json" in str(error.value)


def test_built_in_tasks_say_what_the_default_teacher_can_do() -> None:
    file = Path(__file__).resolve().parents[3] / "experiments" / "results" / "2026-11-27-graded-tasks.jsonl"
    graded: dict[tuple[str, str], list[bool]] = {}
    for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        graded.setdefault((row["task"], row["label"]), []).append(row["right"])
    tasks = load_all_tasks(None)
    assert set(graded) == {
        (name, label) for name, task in tasks.items() if not task.writes_queries for label in task.labels
    }
    for (name, label), right in graded.items():
        accuracy = tasks[name].labels[label].label_accuracy
        assert accuracy is not None
        assert accuracy == pytest.approx(sum(right) / len(right), abs=0.006)
        assert (f"'{label}'" in tasks[name].description) == (accuracy < 0.7)
        assert accuracy >= 0.7 or "use a larger teacher" in tasks[name].description


def test_two_tasks_of_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ORIGINAL | {"task_name": "mine"}))
    assert load_all_tasks(tmp_path)["mine"].task_name == "mine"
    (tmp_path / "b.json").write_text(json.dumps(ORIGINAL | {"task_name": "mine"}))
    with pytest.raises(InvalidTask, match=r"b.json: its task_name 'mine' is that of .*a.json: rename one"):
        load_all_tasks(tmp_path)
    (tmp_path / "b.json").write_text(json.dumps(ORIGINAL | {"task_name": "sts"}))
    with pytest.raises(InvalidTask, match=r"b.json: its task_name 'sts' is that of .*sts.json \(built in\): rename"):
        load_all_tasks(tmp_path)


def test_unknown_task_lists_the_known() -> None:
    with pytest.raises(InvalidPlan, match=r"'nope'; known: nli, paraphrase, .*, sts, topic"):
        Plan(task="nope", num_inputs=1).resolve(load_all_tasks(None))


@pytest.mark.parametrize(
    ("text", "sentence", "end"),
    [
        ('guitar."', "guitar.", "quote"),
        ('guitar." and more', "guitar.", "quote"),
        (" guitar", "guitar", "length"),
        ('"', "", "quote"),
        ('He said "no"', "He said", "inner_quote"),
        ('The word "', "The word", "inner_quote"),
        ('A thing ("', "A thing (", "inner_quote"),
        ('He asked,"', "He asked,", "inner_quote"),
        ('It is a"b', "It is a", "inner_quote"),
        ('He left. "', "He left.", "quote"),
        ("Is it 'so?' \"", "Is it 'so?'", "quote"),
        ('a search query"', "a search query", "quote"),
        (' "', "", "quote"),
        ("guitar\n", "guitar", "line_break"),
        ('guitar\r\n."', "guitar", "line_break"),
        ('guitar."\n', "guitar.", "quote"),
    ],
)
def test_cut(text: str, sentence: str, end: str) -> None:
    assert cut(text) == (sentence, end)


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_every_part_changes_the_seed() -> None:
    base = ("job", "sts", "0.5", 3, 1, 0)
    seeds = {sample_seed(*base[:i], "other", *base[i + 1 :]) for i in range(len(base))} | {sample_seed(*base)}
    assert len(seeds) == len(base) + 1
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("fields", "pairs"),
    [
        ({"inputs": ["One.", "Two."], "labels": ["1", "0", "1"], "pairs_per_label": 3}, 12),
        ({"num_inputs": 5}, 15),
        ({"pairs": 7}, 21),
        ({"pairs": 7, "inputs": ["One."], "labels": ["0"]}, 7),
    ],
)
def test_a_plan_counts_its_pairs(fields: dict[str, Any], pairs: int) -> None:
    plan = Plan.model_validate(fields).resolve(load_all_tasks(None))
    assert plan.pairs_requested == pairs
    assert plan.label_names == list(dict.fromkeys(fields.get("labels", ["1", "0.5", "0"])))
    assert ResolvedPlan.model_validate_json(plan.model_dump_json()) == plan


def test_presets_fill_what_is_left_out() -> None:
    """The original's values: research on timoschick/dino's argument parser and scripts."""
    dino = Plan.model_validate({"preset": "dino", "num_inputs": 1, "decoding": {"top_p": 0.8}})
    assert dino.decoding.model_dump() == {
        "decay_constant": 100.0,
        "floor": 0.01,
        "temperature": 1.0,
        "top_k": 5,
        "top_p": 0.8,
        "max_tokens": 40,
        "line_breaks": "reject",
    }
    assert dino.sentence1_decoding.top_k == 5
    assert (dino.pairs_per_label, dino.attempts, dino.exemplars, dino.topics) == (2, 1, 0, [])
    assert dino.filters == ["identical", "repeat"]
    ours = Plan.model_validate({"num_inputs": 1, "sentence1_decoding": {"temperature": 0.5}})
    assert (ours.sentence1_decoding.top_k, ours.sentence1_decoding.temperature) == (0, 0.5)
    assert ours.decoding.line_breaks == "ban"
    assert Plan.model_validate_json(dino.model_dump_json()) == dino


def test_the_originals_four_specs_load_unchanged(tmp_path: Path) -> None:
    review = 'Task: Write a review for a {} movie.\nMovie: "'
    movies = {
        "task_name": "imdb",
        "labels": {
            name: {"instruction": review.format(kind), "counter_labels": []}
            for name, kind in (("0", "bad"), ("1", "good"))
        },
    }
    spec = load_task(written(tmp_path, movies))
    assert not spec.writes_pairs
    assert sentence1_prompt(spec, "0").text == 'Task: Write a review for a bad movie.\nMovie: "'
    reviews = {
        "task_name": "imdb",
        "labels": {
            name: {"instruction": review.format(kind) + '<X1>"\nReview: "', "counter_labels": [other]}
            for name, kind, other in (("0", "bad", "1"), ("1", "good", "0"))
        },
    }
    spec = load_task(written(tmp_path, reviews))
    assert spec.writes_pairs
    assert [prompt.text for prompt in lanes_for(spec, "1", "Jaws")] == [
        'Task: Write a review for a good movie.\nMovie: "Jaws"\nReview: "',
        'Task: Write a review for a bad movie.\nMovie: "Jaws"\nReview: "',
    ]


@pytest.mark.parametrize("task", ["sts", "paraphrase", "nli", "question-answer", "query-passage", "topic"])
def test_built_in_tasks_are_whole(task: str) -> None:
    spec = load_all_tasks(None)[task]
    assert spec.description
    assert spec.sentence1 is not None
    sizes = {len(label.exemplars) for label in spec.labels.values()}
    assert len(sizes) == 1, "labels show the same places of their pools"
    firsts = [[exemplar.sentence1 for exemplar in label.exemplars] for label in spec.labels.values()]
    assert all(first == firsts[0] for first in firsts), "the same first sentences tell the labels apart best"
    assert {1.0, 0.0} <= {label.score for label in spec.labels.values()}


def test_the_chat_form_asks_and_lets_the_assistant_go_on() -> None:
    sts = load_all_tasks(None)["sts"]
    prompt = lanes_for(sts, "1", 'He said "no".', [0])[0]
    instruction = "Task: Write two sentences that mean the same thing."
    first, second = sts.labels["1"].exemplars[0]
    assert prompt.turns == [
        {"role": "user", "content": f'{instruction}\nSentence 1: "{first}"'},
        {"role": "assistant", "content": f'Sentence 2: "{second}"'},
        {"role": "user", "content": f"{instruction}\nSentence 1: \"He said 'no'.\""},
        {"role": "assistant", "content": 'Sentence 2: "'},
    ]
    assert topical_prompt(sts, "tea", "a novel").turns[-1] == {"role": "assistant", "content": 'Sentence: "'}
    assert "about tea, as it could stand in a novel" in topical_prompt(sts, "tea", "a novel").text
