"""A round that is killed goes on where it was, to the same weights bit for bit (on a CPU)."""

import json
import shutil
from pathlib import Path

import pytest

from services.trainer.dataset.store import open_dataset
from services.trainer.training.checkpoints import SEAL, newest_whole, seal
from tests.support.pairs import make_pairs, plan, records
from tests.support.trainer_homes import Home


@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_a_killed_round_resumes_to_the_same_version(
    tmp_path: Path, home: Home, static_student: Path, plain_encoder: Path, kind: str
) -> None:
    base, settings = static_student if kind == "static" else plain_encoder, {"epochs": 2, "learning_rate": 1e-3}
    with open_dataset(tmp_path / "undisturbed" / "datasets" / "default") as twin:
        twin.add(records(make_pairs(330)))
        other = Home(tmp_path / "undisturbed", twin)
        expected = other.published(other.run_apart(plan(twin, 1, base), **settings))

    home.dataset.add(records(make_pairs(330)))
    round_ = plan(home.dataset, 1, base)

    killed_at = home.kill_at(18, round_, checkpoint_seconds=0, **settings)
    checkpoints = home.settings.dataset_dir / "rounds" / "1" / "checkpoints"
    assert newest_whole(checkpoints) is not None
    told = home.run_apart(round_, **settings)
    manifest = home.published(told)
    resumed_at = manifest.training["resumed_at"]
    assert 10 <= resumed_at <= killed_at + 10
    assert min(progress.step for progress in told if progress.steps) >= resumed_at
    assert manifest.files["model.safetensors"] == expected.files["model.safetensors"]
    assert manifest.id == expected.id
    assert manifest.scores == expected.scores
    assert manifest.training["best_step"] == expected.training["best_step"]


def test_a_checkpoint_cut_short_is_passed_over_for_the_one_before(
    tmp_path: Path, home: Home, static_student: Path
) -> None:
    home.dataset.add(records(make_pairs(300)))
    round_ = plan(home.dataset, 1, static_student)
    settings = {"epochs": 2}
    expected = Home(tmp_path / "undisturbed", home.dataset).run(round_, **settings)[-1].version
    home.kill_at(16, round_, checkpoint_seconds=0, **settings)
    checkpoints = home.settings.dataset_dir / "rounds" / "1" / "checkpoints"
    newest = newest_whole(checkpoints)
    assert newest is not None
    with (newest / "optimizer.pt").open("r+b") as file:
        file.truncate(1000)
    assert home.published(home.run(round_, **settings)).id == expected


def test_settings_that_changed_make_old_checkpoints_worthless(home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(300)))
    round_ = plan(home.dataset, 1, static_student)
    home.kill_at(8, round_, epochs=3, checkpoint_seconds=0)
    manifest = home.published(home.run(round_, epochs=2))
    assert (manifest.training["resumed_at"], manifest.recipe["epochs"]) == (None, 2)


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights" * step)
        if step < 15:
            seal(folder)
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-15").exists(), "without a seal: a death came while it was written"
    (tmp_path / "checkpoint-10" / "model.safetensors").write_bytes(b"WEIGHTS" * 10)
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-5"
    (tmp_path / "checkpoint-5" / SEAL).write_text(json.dumps({"gone": [1, "x"]}))
    assert newest_whole(tmp_path) is None
    shutil.rmtree(tmp_path / "checkpoint-5", ignore_errors=True)
    assert newest_whole(tmp_path) is None
