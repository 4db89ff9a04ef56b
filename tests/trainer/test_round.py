"""A round, in this process: real training, a real version."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from services.trainer.evaluation.sts import unit
from services.trainer.models import encoder
from shared.errors import Fatal
from shared.manifest import PROBE_SENTENCES
from tests.support.pairs import make_pairs, plan, records
from tests.support.trainer_homes import Home


def test_the_untrained_base_is_round_0(home: Home, static_student: Path) -> None:
    manifest = home.published(home.run(home.dataset.plan_base(1, str(static_student))))
    assert (manifest.round, manifest.pairs, manifest.scores, manifest.recipe) == (0, 0, {}, {})
    assert manifest.int8_ranges == {}
    original = encoder.encode(encoder.load(str(static_student), "test"), PROBE_SENTENCES)
    np.testing.assert_allclose(np.array(manifest.probe), original, atol=1e-6)


@pytest.mark.slow
def test_a_static_student_learns_and_its_version_says_how(home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(600)))
    round_ = plan(home.dataset, 3, str(static_student))
    told = home.run(round_, learning_rate=0.02, epochs=10)
    manifest = home.published(told)
    assert manifest.scores["dev_after"] > manifest.scores["dev_before"] + 20
    assert manifest.recipe.items() >= {
        "preset": "default", "loss": "CosineSimilarityLoss", "epochs": 10, "learning_rate": 0.02, "batch_size": 32,
        "seed": 3, "warm_up": 0.1,
    }.items()  # fmt: skip
    assert (manifest.dataset_hash, manifest.pairs) == (round_.dataset_hash, 600)
    assert (manifest.dimensions, manifest.max_seq_length) == (16, None)
    written = encoder.load(str(home.store.path(manifest.id)), "test")
    vectors = encoder.encode(written, [*PROBE_SENTENCES, *(pair.sentence1 for pair in make_pairs(600))])
    assert np.abs(unit(vectors[:4])).max() - 1e-6 <= manifest.int8_ranges[16] <= np.abs(unit(vectors)).max() + 1e-6
    steps = [progress for progress in told if progress.steps]
    assert [progress.step for progress in steps] == list(range(steps[0].steps + 1))
    assert steps[-1].loss is not None
    assert told[-1].scores == manifest.scores


def test_a_version_holds_what_serving_needs_and_nothing_else(home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(60)))
    manifest = home.published(home.run(plan(home.dataset, 1, str(static_student))))
    assert sorted(manifest.files) == [
        "README.md", "config_sentence_transformers.json", "model.safetensors", "modules.json",
        "report/confusion.png", "report/dev.png", "report/histograms.png", "report/loss.png", "report/report.html",
        "report/report.md", "tokenizer.json",
    ]  # fmt: skip
    folder = home.store.path(manifest.id)
    model = encoder.load(str(folder), "test")
    assert model[0].embedding.sparse is False
    np.testing.assert_allclose(encoder.encode(model, PROBE_SENTENCES), np.array(manifest.probe), atol=1e-6)
    assert (manifest.recipe["epochs"], manifest.recipe["learning_rate"], manifest.recipe["batch_size"]) == (
        20,
        1e-3,
        32,
    )
    card = (folder / "README.md").read_text()
    assert manifest.dataset_hash is not None
    assert "Pairwright" in card
    assert manifest.dataset_hash in card
    assert str(static_student) in card
    assert not (home.settings.dataset_dir / "rounds").exists()


@pytest.mark.slow
def test_a_transformer_trains_with_the_papers_numbers(home: Home, plain_encoder: Path) -> None:
    home.dataset.add(records(make_pairs(120)))
    manifest = home.published(home.run(plan(home.dataset, 1, str(plain_encoder))))
    assert (manifest.recipe["epochs"], manifest.recipe["learning_rate"], manifest.recipe["batch_size"]) == (1, 2e-5, 32)
    assert (manifest.dimensions, manifest.max_seq_length) == (16, 64)
    assert manifest.scores.keys() == {"dev_before", "dev_after"}
    trained, base = (encoder.load(str(folder), "test") for folder in (home.store.path(manifest.id), plain_encoder))
    assert np.abs(encoder.encode(trained, ["a noun7 sees"]) - encoder.encode(base, ["a noun7 sees"])).max() > 1e-5


@pytest.mark.slow
def test_the_same_round_gives_the_same_version(tmp_path: Path, home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(90)))
    round_ = plan(home.dataset, 1, str(static_student))
    other = Home(tmp_path / "other", home.dataset)
    assert home.published(home.run(round_)).id == other.published(other.run(round_)).id


@pytest.mark.slow
def test_a_round_that_is_published_already_is_only_activated(home: Home, static_student: Path) -> None:
    home.dataset.add(records(make_pairs(60)))
    round_ = plan(home.dataset, 1, str(static_student))
    first = home.published(home.run(round_))
    (home.store.root / "current").unlink()  # death came between the rename and the pointer
    told = home.run(round_)
    assert home.published(told).id == first.id
    assert len(told) == 1
    assert len(home.store.versions()) == 1


def test_without_a_dev_side_there_are_no_scores_and_still_a_version(home: Home, static_student: Path) -> None:
    home.dataset.add(records([pair.model_copy(update={"score": 1.0}) for pair in make_pairs(60)]))
    assert home.published(home.run(plan(home.dataset, 1, str(static_student)))).scores == {}


def test_a_full_disk_leaves_the_old_version(home: Home, static_student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = home.published(home.run(home.dataset.plan_base(1, str(static_student))))
    home.dataset.add(records(make_pairs(60)))
    round_ = plan(home.dataset, 1, str(static_student))

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space left"):
            home.run(round_)
    assert home.store.current() == before.id
    assert [manifest.id for manifest in home.store.versions()] == [before.id]
    assert home.published(home.run(round_)).round == 1


def test_a_student_that_is_gone_is_named(home: Home, tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="PAIRWRIGHT_STUDENT: there is no folder"):
        home.run(home.dataset.plan_base(1, str(tmp_path / "gone")))
