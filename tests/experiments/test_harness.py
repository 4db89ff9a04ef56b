"""The experiment harness: trials on real training with a tiny student, results that are kept, and the table of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from experiments import pair_sets
from experiments.configuration import Trial, make_trial, read_grid
from experiments.results import Results
from experiments.sweep import Sweep
from experiments.table import half_width, markdown
from services.trainer.evaluation.sts import StsFile
from shared.errors import Fatal
from tests.support.pairs import make_pairs
from tests.support.students import write_static, write_teacher

if TYPE_CHECKING:
    from experiments.trial import Bench


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pair sets, a grid and a tiny teacher."""
    folder = tmp_path_factory.mktemp("experiments")
    for name, seed in (("one", 1), ("other", 2)):
        lines = [pair.model_dump_json() for pair in make_pairs(300, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    grid = {
        "base": {"train": ["one"], "judges": ["other"], "student": str(folder / "static"), "learning_rate": 0.05},
        "seeds": [1, 2],
        "rows": [{"name": "untrained", "epochs": 0}, {"name": "loss", "loss": {"each": ["cosent"]}, "epochs": 8}],
    }
    (folder / "grid.json").write_text(json.dumps(grid))
    write_static(folder / "static")
    write_teacher(folder / "teacher", tied=True)
    return folder


def run(folder: Path, results: Results) -> tuple[Sweep, int]:
    from experiments import trial

    sweep = Sweep(read_grid(folder / "grid.json"), folder, results)
    human = {"human": StsFile(pair_sets.read(folder, "other"), [])}
    bench = trial.Bench(folder / "teacher", sweep.sets, human, folder / "cache")
    return sweep, sweep.run(lambda one: trial.run(one, bench), print)


def test_a_sweep_trains_judges_and_goes_on_where_it_was(folder: Path) -> None:
    file = folder / "rows.jsonl"
    sweep, ran = run(folder, Results(file))
    assert ran == 4
    found = sweep.collected()
    assert list(found) == ["untrained", "loss loss=cosent"]
    assert found["loss loss=cosent"][0]["judged"] > found["untrained"][0]["judged"] + 5
    # A death in the middle of a line costs that trial and no other one.
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert run(folder, Results(file))[1] == 1
    assert len(file.read_text().splitlines()) == 4
    assert run(folder, Results(file))[1] == 0
    # Other pairs are another trial.
    (folder / "other.jsonl").write_text("".join((folder / "other.jsonl").open().readlines()[:60]))
    assert not Sweep(read_grid(folder / "grid.json"), folder, Results(file)).collected()


def bench_of(folder: Path, sentences: Sequence[str] = ()) -> "Bench":
    from experiments import trial

    sets = {name: pair_sets.read(folder, name) for name in ("one", "other")}
    return trial.Bench(folder / "teacher", sets, {}, folder / "cache", sentences)


def test_views_soft_scores_and_the_placebo_change_what_comes_out(folder: Path) -> None:
    """Each of them, or its result would be the plain trial's under another name."""
    from experiments import trial

    further = [f"the noun{number} sees a noun{number + 1}" for number in range(30)]
    bench = bench_of(folder, further)
    base = {"train": ["one"], "judges": ["other"], "initial.dimensions": 8, "learning_rate": 0.05}
    options: list[dict[str, Any]] = [{}, {"views": 200}, {"views": 200, "sentences": 30}, {"soft": 1.0}]
    found = [trial.run(make_trial(base | one), bench)["judged"] for one in [*options, {"shuffled": True}]]
    assert len(set(found)) == len(found)
    assert found[0] > found[-1] + 5, "shuffled scores teach no meaning"
    with pytest.raises(Fatal, match="--sentences: a trial asks for 31, and there are 30"):
        trial.run(make_trial(base | {"sentences": 31}), bench)


def test_the_teacher_in_one_word_can_be_judged(folder: Path) -> None:
    from experiments import trial

    found = trial.run(make_trial({"judges": ["other"], "student": "one-word"}), bench_of(folder))
    assert found["judged"] != trial.run(make_trial({"judges": ["other"]}), bench_of(folder))["judged"]


def test_the_placebo_keeps_texts_and_each_groups_scores() -> None:
    rows = [(pair.sentence1, pair.sentence2, pair.score) for pair in make_pairs(90)]
    dealt = pair_sets.shuffled(rows, 1)
    assert sorted((one, other) for one, other, _ in dealt) == sorted((one, other) for one, other, _ in rows)
    assert sorted((one, score) for one, _, score in dealt) == sorted((one, score) for one, _, score in rows)
    assert sorted(dealt) != sorted(rows)
    assert pair_sets.shuffled(rows[::-1], 1) == dealt


def test_a_static_student_is_made_and_changed_as_the_trial_says(folder: Path) -> None:
    from experiments import trial

    bench = bench_of(folder)
    options: list[dict[str, Any]] = [
        {},
        {"initial.fold": "mean"},
        {"initial.weighting": "idf"},
        {"initial.whitening": 1.0},
        {"initial.within": 0.5},
        {"initial.source": "layer-1"},
        {"student": "teacher-1"},
    ]
    base = {"train": ["one"], "judges": ["other"], "epochs": 0, "initial.dimensions": 8}
    found = [trial.run(make_trial(base | one), bench)["judged"] for one in options]
    assert found[1] == found[0]  # no two of its words differ in case alone
    assert len({found[0], *found[2:]}) >= 5


def test_a_table_has_means_and_intervals_and_hides_human_scores() -> None:
    several = [
        {"pairs": 10, "dev": dev, "judged": 50.0, "judges": {"a": 50.0}, "human": {"stsb.dev": 60.0 + dev}}
        for dev in (1.0, 2.0, 3.0)
    ]
    width = half_width([1.0, 2.0, 3.0])
    assert width == pytest.approx(4.302653 / 3**0.5, rel=1e-4)
    table = markdown({"row": several}, human=False)
    assert f"2.00 ± {width:.2f}" in table
    assert "stsb" not in table
    assert "62.00" in markdown({"row": several}, human=True)


def test_choosing_pairs_takes_whole_groups_and_judges_share_nothing() -> None:
    rows = [(pair.sentence1, pair.sentence2, pair.score) for pair in make_pairs(90)]
    taken = pair_sets.chosen(rows, 30, [])
    assert 30 <= len(taken) < 36
    groups = {one for one, _, _ in taken}
    assert [row for row in rows if row[0] in groups] == sorted(taken, key=rows.index)
    seen = {text for one, other, _ in taken for text in (one, other)}
    left = pair_sets.apart(rows, taken)
    assert left
    assert not seen & {text for one, other, _ in left for text in (one, other)}
    assert {score for _, _, score in pair_sets.chosen(rows, None, ["without-half"])} == {0.0, 1.0}


def test_a_wrong_grid_is_told(tmp_path: Path) -> None:
    file = tmp_path / "grid.json"
    file.write_text(json.dumps({"base": {}, "seeds": [1], "rows": [{"name": "x", "losses": "cosine"}]}))
    with pytest.raises(Fatal, match="losses"):
        read_grid(file)
    assert Trial().key({}) != Trial(seed=2).key({})
