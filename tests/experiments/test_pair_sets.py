"""Pair sets, grids, and tables of results: what needs no model."""

import json
from pathlib import Path

import pytest

from experiments import pair_sets
from experiments.__main__ import SETS
from experiments.configuration import Trial, read_grid
from experiments.generation import generate, read_sets
from experiments.results import by_name
from experiments.table import half_width, markdown
from shared.errors import Fatal
from tests.support.pairs import make_pairs

ROWS = [(pair.sentence1, pair.sentence2, pair.score) for pair in make_pairs(90)]


def texts_of(rows: list[tuple[str, str, float]]) -> set[str]:
    return {text for one, other, _ in rows for text in (one, other)}


def test_the_placebo_keeps_texts_and_each_group_s_scores() -> None:
    shuffled = pair_sets.shuffle_scores(ROWS, 1)
    assert sorted((one, other) for one, other, _ in shuffled) == sorted((one, other) for one, other, _ in ROWS)
    assert sorted((one, score) for one, _, score in shuffled) == sorted((one, score) for one, _, score in ROWS)
    assert sorted(shuffled) != sorted(ROWS)
    assert pair_sets.shuffle_scores(ROWS[::-1], 1) == shuffled


def test_a_sample_takes_whole_groups_and_evaluation_shares_no_sentence() -> None:
    sample = pair_sets.sample(ROWS, 30)
    assert 30 <= len(sample) < 36
    groups = {one for one, _, _ in sample}
    assert [row for row in ROWS if row[0] in groups] == sorted(sample, key=ROWS.index)
    rest = pair_sets.without_sentences_of(sample, ROWS)
    assert rest
    assert not texts_of(sample) & texts_of(rest)


def test_an_archive_holds_sets_without_evaluation_sentences_and_unwanted_words(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, evaluation = (pair_sets.read(folder, name) for name in ("train", "evaluation"))
    rows = [*train, ("a noun1 sees Nazis", "the noun2", 1.0)]
    lines = [json.dumps(dict(zip(("sentence1", "sentence2", "score"), row, strict=True))) for row in rows]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    (tmp_path / "evaluation.jsonl").write_text((folder / "evaluation.jsonl").read_text())
    wanted = pair_sets.without_sentences_of(evaluation, train)
    assert pair_sets.pack(tmp_path, ["own"], ["evaluation"], tmp_path / "packed.xz") == len(wanted) > 0
    monkeypatch.setattr(pair_sets, "ARCHIVE", tmp_path / "packed.xz")
    assert pair_sets.read(tmp_path / "elsewhere", "own") == wanted
    with pytest.raises(Fatal, match=r"'other'.*experiments generate"):
        pair_sets.read(tmp_path, "other")


def test_the_shipped_grids_name_sets_that_can_be_written() -> None:
    names = {one.name for one in read_sets(SETS)}
    grids = [read_grid(file) for file in SETS.parent.glob("*.json") if file != SETS]
    assert len(grids) >= 4
    assert {name for grid in grids for row in grid for name in (*row.trial.train, *row.trial.eval_pairs)} <= names


def test_a_set_is_written_once_and_needs_its_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {one.name: one for one in read_sets(SETS)}
    (tmp_path / "own-1.jsonl").touch()
    generate([sets["own-1"]], tmp_path, None)
    assert capsys.readouterr().out == "own-1: is there\n"
    with pytest.raises(Fatal, match="people: needs sentences"):
        generate([sets["people"]], tmp_path, None)


def test_the_shipped_results_are_tables() -> None:
    files = [file for file in pair_sets.ARCHIVE.parent.glob("*.jsonl") if "graded" not in file.name]
    assert len(files) >= 5
    for file in files:
        rows = by_name(file)
        assert len(markdown(rows, human=True, details=True).splitlines()) == len(rows) + 2


def test_a_table_has_means_and_intervals_and_hides_human_scores() -> None:
    plain = {"pairs": 10, "mean": 50.0, "eval_pairs": {"a": 50.0}, "agreement": {"a": 7.0}}
    several = [plain | {"dev": dev, "human": {"stsb": 60 + dev}} for dev in (1.0, 2.0, 3.0)]
    width = half_width([1.0, 2.0, 3.0])
    assert width == pytest.approx(4.302653 / 3**0.5, rel=1e-4)
    table = markdown({"row": several})
    assert f"2.00 ± {width:.2f}" in table
    assert "stsb" not in table
    assert "62.00" in markdown({"row": several}, human=True)
    assert "| a | agreement: a |" in markdown({"row": several}, details=True)


def test_results_of_other_evaluation_sets_are_other_rows_and_the_latest_counts(tmp_path: Path) -> None:
    results = [("a", 1, {"x": 1.0, "y": 5.0}), ("a", 1, {"x": 2.0, "y": 6.0}), ("a", 1, {"x": 3.0}), ("b", 1, {"x": 4})]
    lines = [{"name": name, "seed": seed, "eval_pairs": scores, "mean": 0} for name, seed, scores in results]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(by_name(file)) == ["a (x, y)", "a (x)", "b"]
    assert by_name(file)["a (x, y)"][0]["eval_pairs"]["x"] == 2.0
    assert [several[0]["mean"] for several in by_name(file, ["y"]).values()] == [6.0, None, None]
    file.write_text("{}")
    with pytest.raises(Fatal, match="not a file of results"):
        by_name(file)


def test_a_wrong_grid_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "grid.json"
    for rows, message in (
        ([{"name": "x", "losses": "cosine"}], "losses"),
        ([{"name": "x"}, {"name": "x"}], "same name"),
    ):
        file.write_text(json.dumps({"base": {}, "seeds": [1], "rows": rows}))
        with pytest.raises(Fatal, match=message):
            read_grid(file)
    with pytest.raises(Fatal, match="not a list of pair sets"):
        read_sets(file)
    assert Trial().key({}) != Trial(seed=2).key({})
