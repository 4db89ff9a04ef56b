"""The transformer student's training, the judge pass, and the search around both, on a tiny teacher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import keep_pairs, large, pair_sets
from experiments.large import SCORES, Material, Trial
from experiments.likelihood import log_likelihoods, posteriors, sts
from experiments.transformer import Lesson, Student, Unit, train
from services.generation.pairs import prompts
from services.trainer.models import adapter
from services.trainer.models.prompt_eol import PromptEOLEncoder
from tests.support.tiny_teacher import make_tiny_teacher

PAIRS = [
    (f"word{number} word{number + 1}", f"word{number + 1} word{number} word{number % 7}", SCORES[number % 3])
    for number in range(60)
]
PAIRS += [(one, f"word{149 - number} word5", SCORES[(number + 1) % 3]) for number, (one, _, _) in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize("losses", [("mnrl",), ("templates",), ("cosine",), ("cosent",), ("mnrl", "templates")])
def test_every_loss_is_learned(teacher: Path, losses: tuple[str, ...]) -> None:
    units = [
        Unit(f"word{number}", ((f"word{number} word9", 1.0), (f"word{149 - number}", 0.0))) for number in range(60)
    ]
    texts = [unit.sentence1 for unit in units]
    student = Student(teacher)
    brief, long = (
        train(student, units, texts, Lesson(losses, 1e-2, epochs=epochs, batch=20, rank=4)) for epochs in (1, 12)
    )
    assert long["loss"] < brief["loss"]
    assert long["steps"] == 12 * brief["steps"] > 0


def test_the_trainer_sees_what_the_trained_student_saw(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = [Unit(one, ((other, score),)) for one, other, score in PAIRS]
    student, texts = Student(teacher), [one for one, _, _ in PAIRS[:20]]
    plain = student.encode(texts)
    train(student, units, (), Lesson(("cosine",), 1e-2, epochs=3, batch=20, rank=4))
    large._save(student, tmp_path / "adapter.safetensors")
    monkeypatch.setattr(adapter, "FILE", tmp_path / "adapter.safetensors")
    looking = PromptEOLEncoder(teacher)
    assert looking.adapter is not None
    assert np.abs(student.encode(texts) - plain).max() > 0.05
    np.testing.assert_allclose(
        looking.encode(texts) - looking.adapter.centre.numpy(), student.encode(texts), atol=0.02
    )  # it is kept in half precision
    again = Student(teacher, looking.adapter.centre)
    again.put(student.adapter())
    np.testing.assert_allclose(again.encode(texts), student.encode(texts), atol=0.02)


def test_likelihoods_are_those_of_each_answer_by_itself(teacher: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(teacher), AutoModelForCausalLM.from_pretrained(teacher)
    pairs = [(one, other) for one, other, _ in PAIRS[:9]]
    found = log_likelihoods(pairs, sts(), teacher)
    for row, (one, other) in enumerate(pairs):
        for column, label in enumerate(sts().labels.values()):
            prompt = tokenizer(prompts.sentence2_prompt(label, one, (0, 1)).text).input_ids
            answer = tokenizer(f'{other}"', add_special_tokens=False).input_ids
            with torch.inference_mode():
                logs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
            wanted = sum(float(logs[len(prompt) - 1 + step, token]) for step, token in enumerate(answer))
            assert found[row, column] == pytest.approx(wanted, abs=1e-3)


def test_no_label_is_favoured_for_its_prompt() -> None:
    draw = np.random.default_rng(0)
    written_for = np.repeat([0, 1, 2], 200)
    likelihoods = draw.normal(size=(600, 3)) + 3.0 * np.eye(3)[written_for] + np.array([0.0, 50.0, -20.0])
    chances = posteriors(likelihoods, written_for)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert (chances.argmax(axis=1) == written_for).mean() > 0.9


def test_units_are_what_the_judge_pass_and_the_placebo_leave(tmp_path: Path) -> None:
    sets = {name: [("one", "same", 1.0), ("one", "other", 0.0), ("two", "half", 0.5)] for name in large.EVERYTHING}
    chances = np.array([[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.0, 1.0, 0.0]])
    np.save(tmp_path / "posteriors.npy", np.concatenate([chances] * len(large.EVERYTHING)))
    material = Material("", sets, {}, tmp_path, 0.0)
    trial = Trial("", ("own-2",), Lesson(("cosine",)))

    def found(**changes: object) -> dict[str, tuple[tuple[str, float], ...]]:
        units = large.units(Trial("", trial.sets, trial.lesson, **changes), material)  # type: ignore[arg-type]
        return {unit.sentence1: unit.partners for unit in units}

    assert found() == {"one": (("same", 1.0), ("other", 0.0)), "two": (("half", 0.5),)}
    assert found(judged="keep") == {"one": (("same", 1.0),), "two": (("half", 0.5),)}
    softened = dict(found(judged="soft")["one"])
    assert softened == pytest.approx({"same": 0.75, "other": 0.85})
    assert sorted(value for _, value in found(placebo=True)["one"]) == [0.0, 1.0]
    assert len(found(most=1)) == 1


def write_sets(folder: Path) -> None:
    judge = [(f"word{number} word1", f"word{number} word{number % 5}", number % 3 / 2) for number in range(30, 90)]
    sets = dict.fromkeys((*large.EVERYTHING, large.WORDS), PAIRS) | dict.fromkeys(large.DECIDING, judge)
    for name, rows in sets.items():
        pair_sets.write(folder / f"{name}.jsonl", rows)


def test_a_search_writes_an_adapter_and_a_rerun_goes_on(teacher: Path, tmp_path: Path) -> None:
    write_sets(tmp_path)
    command = [sys.executable, "-m", "experiments.large", "--teacher", str(teacher)]
    command += ["--pairs", str(tmp_path), "--out", str(tmp_path / "out")]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=alone).stdout
    rows = (tmp_path / "out" / "trials.jsonl").read_text()
    assert "judge pass: " in first
    kept = pair_sets.read(tmp_path / "out", "kept-own-1")
    assert 0 < len(kept) < len(PAIRS)
    assert set(kept) < set(PAIRS)
    assert rows.count("\n") > 20
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=alone)
    assert (tmp_path / "out" / "trials.jsonl").read_text() == rows
    assert (tmp_path / "out" / "adapter.safetensors").is_file() == ("best: None" not in first)


def test_sets_are_kept_without_judges_and_unwanted_words(tmp_path: Path) -> None:
    write_sets(tmp_path)
    unwanted, judged = ("word3 Nazis", "word4", 1.0), ("word30 word1", "word9", 0.0)
    with (tmp_path / "own-1.jsonl").open("a") as file:
        for one, two, score in (unwanted, judged):
            file.write(json.dumps({"sentence1": one, "sentence2": two, "score": score}) + "\n")
    keep_pairs.main(tmp_path, tmp_path / "kept.xz")
    keep_pairs.main(tmp_path / "again", tmp_path / "kept.xz")
    seen = {text for number in range(30, 90) for text in (f"word{number} word1", f"word{number} word{number % 5}")}
    wanted = [row for row in dict.fromkeys(PAIRS) if not seen & set(row[:2])]
    for name in large.EVERYTHING:
        assert pair_sets.read(tmp_path / "again", name) == wanted
