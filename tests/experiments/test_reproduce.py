"""The paper's claim on tiny models: every method trains for real, once, and is measured on sets of people's scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import pair_sets
from experiments.results import Results
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import load_all_tasks
from services.trainer.evaluation.sts import Row, StsFile
from tests.support.students import write_encoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Sequence[Row]]:
    return {name: pair_sets.read(folder, name) for name in ("train", "evaluation")}


def test_every_method_learns_from_its_pairs_and_is_run_once(rows: Any, tmp_path: Path) -> None:
    from experiments import reproduce

    write_encoder(tmp_path / "encoder")
    human = {"stsb.test": StsFile(rows["evaluation"], [""] * len(rows["evaluation"]))}
    pairs = dict.fromkeys(reproduce.SETS, rows["train"])
    said: list[str] = []

    def run(seeds: list[int]) -> list[Any]:
        results = Results(tmp_path / "results.jsonl")
        return reproduce.run({"tiny": str(tmp_path / "encoder")}, pairs, human, seeds, 1.0, 10.0, results, said.append)

    found = run([1])
    assert [row["method"] for row in found] == [*reproduce.UNTRAINED, *reproduce.METHODS]
    assert all(row["scores"] for row in found), "a BERT can be trained in all ways"
    scores = {row["method"]: row["scores"]["stsb.test"] for row in found}
    trained = [scores[name] for name in reproduce.METHODS]
    assert scores["as it is"] not in trained
    assert {row["steps"] > 0 for row in found if row["method"] in reproduce.METHODS} == {True}

    count = len(said)
    again = run([1, 2])
    assert again[: len(found)] == found
    assert len(said) == count + len(reproduce.METHODS), "only the new seed was trained"
    table = reproduce.markdown(again)
    assert "| DINO, x1 given | " in table
    assert "| DINO, STS-x2 | 77.82 |" in table


def test_an_encoder_without_a_decoder_is_left_out_of_tsdae_and_no_other(rows: Any, tmp_path: Path) -> None:
    from experiments import reproduce
    from tests.support.students import write_teacher

    write_teacher(tmp_path / "teacher", tied=True, layers=5)
    reproduce.write_lower_layers(tmp_path / "teacher", tmp_path / "layers")
    human = {"stsb.test": StsFile(rows["evaluation"], [""] * len(rows["evaluation"]))}
    pairs = dict.fromkeys(reproduce.SETS, rows["train"])
    results = Results(tmp_path / "results.jsonl")

    def run(rates: float) -> list[Any]:
        bases = {"layers": str(tmp_path / "layers")}
        return reproduce.run(bases, pairs, human, [1], 0.2, rates, results, lambda _: None)

    found = run(10.0)
    assert [row["method"] for row in found if not row["scores"]] == ["TSDAE"]
    assert "no decoder" in next(row["problem"] for row in found if not row["scores"])

    scores = {row["method"]: row["scores"].get("stsb.test") for row in run(0.0)}
    assert {scores[name] for name in reproduce.METHODS} == {None, scores["as it is"]}, "at a rate of 0"


def test_whitened_vectors_have_no_covariance_and_averaged_ones_are_of_the_input(rows: Any, tmp_path: Path) -> None:
    from experiments import reproduce
    from services.trainer.models import encoder

    write_encoder(tmp_path / "encoder")
    model = encoder.load(str(tmp_path / "encoder"), "student")
    texts = sorted({one for one, _, _ in rows["train"]})
    whitened = reproduce.whitened(lambda some: encoder.encode(model, some), texts)(texts)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(whitened.shape[1]), atol=0.01)
    table = encoder.table_of(model[0].auto_model)
    [vector] = reproduce.averaged(model, table, ["noun1 noun2"])
    ids = model.tokenizer("noun1 noun2", add_special_tokens=False)["input_ids"]
    np.testing.assert_allclose(vector, table[ids].mean(axis=0), rtol=1e-5)


def test_its_pair_sets_are_plans_with_and_without_counter_labels() -> None:
    from experiments import reproduce
    from experiments.generation import PairSet

    sets = {row["name"]: PairSet(**row) for row in reproduce.plans(12)}
    assert tuple(sets) == reproduce.SETS
    for name, one in sets.items():
        given = {} if one.sentences is None else {"inputs": ["A cat sleeps."]}
        plan = Plan.model_validate(dict(one.plan) | given)
        plan.resolve(load_all_tasks(None))
        assert (plan.decoding.decay_constant == 0) == name.endswith("-plain")
        assert plan.preset == ("default" if name == reproduce.OURS else "dino")
