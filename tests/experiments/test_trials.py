"""Trials: real training of tiny students by the trainer's parts, an adapter among them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments import pair_sets
from experiments.__main__ import app
from experiments.configuration import make_trial
from services.trainer.distillation import corpus
from services.trainer.models import adapter
from services.trainer.models.static import fingerprint
from shared.errors import Fatal
from tests.support.pairs import NOUNS, make_pairs
from tests.support.students import write_static

if TYPE_CHECKING:
    from experiments.trial import Bench

SENTENCES = [f"a {one} sees the {other}" for one, other in zip(NOUNS, NOUNS[7:], strict=False)]


def make_bench(folder: Path, sentences: list[str] = []) -> "Bench":  # noqa: B006 -- not changed
    from experiments.trial import Bench

    sets = {name: pair_sets.read(folder, name) for name in ("train", "evaluation")}
    return Bench(folder / "teacher", sets, {}, folder / "cache", sentences)


def run(bench: "Bench", **options: Any) -> dict[str, Any]:
    from experiments import trial

    return trial.run(make_trial({"eval_pairs": ["evaluation"], "learning_rate": 0.05} | options), bench)


@pytest.mark.slow
def test_a_grid_is_run_once_and_shown(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_static(tmp_path / "static")
    base = {
        "train": ["train"],
        "eval_pairs": ["evaluation"],
        "student": str(tmp_path / "static"),
        "learning_rate": 0.05,
    }
    rows = [
        {"name": "untrained", "epochs": 0, "seeds": [1]},
        {"name": "loss", "loss": {"each": ["cosent"]}, "epochs": 8},
    ]
    grid, results, picture = (tmp_path / name for name in ("grid.json", "results.jsonl", "bars.png"))
    grid.write_text(json.dumps({"base": base, "seeds": [1, 2], "rows": rows}))
    for name in ("train", "evaluation"):
        (tmp_path / f"{name}.jsonl").write_text((folder / f"{name}.jsonl").read_text())
    monkeypatch.setenv("PAIRWRIGHT_TEACHER", str(folder / "teacher"))
    monkeypatch.setenv("PAIRWRIGHT_CACHE", str(tmp_path / "cache"))

    def invoke(*arguments: object) -> list[str]:
        done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output.splitlines()

    def trials() -> int:
        lines = invoke("run", grid, "--pairs", tmp_path, "--results", results)
        return sum(", seed " in line for line in lines)

    assert trials() == 3
    untrained, trained = (json.loads(line)["mean"] for line in results.read_text().splitlines()[:2])
    assert trained > untrained + 5
    # A death in the middle of a line costs that trial and no other one.
    results.write_bytes(results.read_bytes()[:-10])
    assert trials() == 1
    assert trials() == 0
    assert f"| loss loss=cosent | 2 | {240:,} |" in invoke("table", results)[-1]
    invoke("picture", results, picture, "--only", "evaluation")
    assert picture.stat().st_size > 1000
    # Other pairs are other trials.
    (tmp_path / "evaluation.jsonl").write_text("".join((tmp_path / "evaluation.jsonl").open().readlines()[:60]))
    assert trials() == 3


@pytest.mark.slow
def test_each_choice_changes_what_comes_out(folder: Path) -> None:
    """Or its result would be the plain trial's under another name."""
    bench = make_bench(folder)
    choices: list[dict[str, Any]] = [
        {},
        {"teacher_embeddings": 300},
        {"pairs": 60},
        {"epochs": 0},
        {"student": "teacher"},
    ]
    base = {"train": ["train"], "learning_rate": 0.01, "epochs": 8}
    results = [run(bench, **base | options) for options in [*choices, {"shuffled": True}]]
    means = [result["mean"] for result in results]
    assert len(set(means)) == len(means)
    assert means[0] > means[-1] + 20, "shuffled scores teach no meaning"
    assert [result["agreement"] for result in results] == [{}] * len(results)
    with pytest.raises(Fatal, match="only the default teacher has a corpus"):
        run(bench, **{"corpus.sentences": 10})


@pytest.mark.slow
def test_a_student_learns_the_teacher_s_order_from_a_corpus_and_not_from_the_placebo(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.adapter import AdapterStudent
    from services.trainer.models import encoder

    AdapterStudent(folder / "teacher", seed=1).save(tmp_path / "adapter.safetensors")
    monkeypatch.setattr(adapter, "FILE", tmp_path / "adapter.safetensors")
    texts = sorted({text for pair in make_pairs(300, seed=5) for text in (pair.sentence1, pair.sentence2)})
    (tmp_path / "sentences.txt").write_text("\n".join(texts))
    monkeypatch.setattr(corpus, "SENTENCES", tmp_path / "sentences.txt")
    monkeypatch.setattr(corpus, "EMBEDDINGS", tmp_path / "embeddings.npz")
    bench = make_bench(folder, SENTENCES)
    table = encoder.token_table(folder / "teacher")
    kept = corpus.quantize(bench.teacher_embeddings(texts))
    np.savez(tmp_path / "embeddings.npz", teacher=np.array(fingerprint(table)), allow_pickle=False, **kept)

    def agreement(**options: Any) -> dict[str, float]:
        of_corpus = {f"corpus.{name}": value for name, value in options.items()}
        result: dict[str, float] = run(bench, **of_corpus)["agreement"]
        return result

    training = {"sentences": 10_000, "regression": False, "epochs": 60, "learning_rate": 0.1}
    plain, fitted = agreement(), agreement(sentences=10_000)
    distilled, placebo = agreement(**training), agreement(**training, shuffled=True)
    assert set(plain) == {"all pairs", "nearest", "train", "evaluation"}
    assert fitted["all pairs"] > plain["all pairs"]
    assert distilled["all pairs"] > max(plain["all pairs"], placebo["all pairs"]) + 20


def test_the_teacher_agrees_with_itself(folder: Path) -> None:
    from experiments.agreement import measure

    bench = make_bench(folder)
    measured = measure(bench.teacher_embeddings, SENTENCES, bench.sets)(
        lambda texts: bench.teacher_embeddings(texts) * 2
    )
    assert min(measured.values()) > 99.9


@pytest.mark.slow
def test_a_trained_adapter_is_better_and_the_trainer_reads_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.adapter import AdapterStudent, train
    from services.trainer.models.prompt_eol import PromptEOLEncoder

    bench = make_bench(folder)
    options = {"student": "adapter", "train": ["train"], "learning_rate": 0.01, "batch_size": 20}
    untrained, trained = (run(bench, **options, epochs=epochs) for epochs in (0, 12))
    assert trained["steps"] == 12 * (80 // 20)
    assert trained["mean"] > untrained["mean"] + 5
    monkeypatch.setattr(adapter, "FILE", Path(trained["adapter"]))
    shipped = PromptEOLEncoder(folder / "teacher")
    assert shipped.adapter is not None
    student, texts = AdapterStudent(folder / "teacher", seed=1), SENTENCES[:20]
    plain = student.encode(texts)
    train(student, bench.sets["train"], make_trial(options | {"epochs": 12}))
    assert np.abs(student.encode(texts) - plain).max() > 0.05
    centre = shipped.adapter.centre.numpy()
    np.testing.assert_allclose(
        shipped.encode(texts) - centre, student.encode(texts), atol=0.02
    )  # kept in half precision


def test_triplets_pair_what_was_written_for_one_sentence() -> None:
    from experiments.adapter import triplets

    rows = [
        ("one", "same", 1.0),
        ("one", "half", 0.5),
        ("two", "same", 1.0),
        ("one", "other", 0.0),
        ("one", "again", 1.0),
    ]
    assert triplets(rows) == [("one", "same", "other")]
