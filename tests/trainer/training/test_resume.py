"""A round that is killed goes on where it was, to the same weights bit for bit (on a CPU)."""

import json
import shutil
from pathlib import Path

import pytest

from services.trainer.dataset.store import open_dataset
from services.trainer.training.checkpoints import FILE_LIST, newest_complete, write_file_list
from tests.support.pairs import make_pairs, plan, records
from tests.support.trainer_homes import Home

UNDISTURBED = "undisturbed"


@pytest.mark.slow
def test_a_killed_transformer_resumes_to_the_same_version(tmp_path: Path, home: Home, plain_encoder: Path) -> None:
    settings = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 8}
    with open_dataset(tmp_path / UNDISTURBED / "datasets" / "default") as twin:
        twin.add(records(make_pairs(150)))
        other = Home(tmp_path / UNDISTURBED, twin)
        expected = other.published(other.run(plan(twin, 1, plain_encoder), **settings))

    home.dataset.add(records(make_pairs(150)))
    round_ = plan(home.dataset, 1, plain_encoder)
    killed_at = home.kill_at(14, round_, checkpoint_seconds=0, **settings)
    progress = home.run(round_, **settings)
    manifest = home.published(progress)
    resumed_at = manifest.training["resumed_at"]
    assert 10 <= resumed_at <= killed_at + 10
    assert min(one.step for one in progress if one.steps) >= resumed_at
    assert manifest.files["model.safetensors"] == expected.files["model.safetensors"]
    assert manifest.id == expected.id
    assert manifest.scores == expected.scores
    assert manifest.training["best_step"] == expected.training["best_step"]


@pytest.mark.slow
def test_a_static_student_resumes_too_and_passes_over_a_checkpoint_cut_short_or_made_with_other_settings(
    tmp_path: Path, home: Home, static_student: Path
) -> None:
    home.dataset.add(records(make_pairs(300)))
    round_, settings = plan(home.dataset, 1, static_student), {"epochs": 2}
    undisturbed = Home(tmp_path / UNDISTURBED, home.dataset)
    expected = undisturbed.published(undisturbed.run(round_, **settings))
    home.kill_at(16, round_, checkpoint_seconds=0, **settings)

    changed = Home(tmp_path / "changed", home.dataset)
    shutil.copytree(home.settings.dataset_dir / "rounds", changed.settings.dataset_dir / "rounds")
    manifest = changed.published(changed.run(round_, epochs=3))
    assert (manifest.training["resumed_at"], manifest.recipe["epochs"]) == (None, 3)

    newest = newest_complete(home.settings.dataset_dir / "rounds" / "1" / "checkpoints")
    assert newest is not None
    with (newest / "optimizer.pt").open("r+b") as file:
        file.truncate(1000)
    resumed = home.published(home.run(round_, **settings))
    assert resumed.training["resumed_at"] == int(newest.name.removeprefix("checkpoint-")) - 1
    assert (resumed.id, resumed.training["best_step"]) == (expected.id, expected.training["best_step"])


def test_only_complete_checkpoints_count(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights" * step)
        if step < 15:
            write_file_list(folder)
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-15").exists(), "without a list: a death came while it was written"
    (tmp_path / "checkpoint-10" / "model.safetensors").write_bytes(b"WEIGHTS" * 10)
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-5"
    (tmp_path / "checkpoint-5" / FILE_LIST).write_text(json.dumps({"gone": [1, "x"]}))
    assert newest_complete(tmp_path) is None
