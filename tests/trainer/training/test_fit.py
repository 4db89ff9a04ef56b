"""Presets, losses and ways to train, each in a real round."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.trainer.evaluation.sts import unit
from services.trainer.models import compact, encoder
from services.trainer.settings import TrainerSettings
from services.trainer.students import locate
from services.trainer.training.recipe import recipe_for
from shared.errors import Fatal
from shared.manifest import Manifest
from tests.support.documents import make_document
from tests.support.pairs import make_pairs, plan, records
from tests.support.students import write_teacher
from tests.support.trainer_homes import Home

LEARN: dict[str, Any] = {"learning_rate": 0.05, "epochs": 8}


def train(home: Home, student: Path, count: int = 450, **settings: Any) -> Manifest:
    home.dataset.add(records(make_pairs(count)))
    return home.published(home.run(plan(home.dataset, 1, student), **settings))


def falling(spread: np.ndarray) -> bool:
    """Whether dimensions come with the widest spread of sentences first, nearly."""
    return bool((np.diff(spread) < 0.05 * spread.max()).all())


@pytest.mark.parametrize(
    ("loss", "name", "gain"),
    # AnglE trains a similarity of its own, which the cosine follows at a distance.
    [("cosent", "CoSENTLoss", 15), ("angle", "AnglELoss", 5), ("mnrl", "MultipleNegativesRankingLoss", 15)],
)
def test_each_loss_teaches_a_static_student(
    home: Home, static_student: Path, loss: str, name: str, gain: float
) -> None:
    manifest = train(home, static_student, loss=loss, **LEARN)
    assert manifest.recipe["loss"] == name
    assert manifest.scores["dev_after"] > manifest.scores["dev_before"] + gain


@pytest.mark.slow
def test_matryoshka_makes_the_first_dimensions_good_alone(home: Home, static_student: Path) -> None:
    manifest = train(home, static_student, loss="cosent", matryoshka="8,4", **LEARN)
    assert manifest.matryoshka == manifest.recipe["matryoshka"] == [16, 8, 4]
    assert score_of_first(home, manifest, 4) > score_of_first(home, None, 4, static_student) + 15


def score_of_first(home: Home, manifest: Manifest | None, dimensions: int, base: Path | None = None) -> float:
    from services.trainer.evaluation.sts import score

    model = encoder.load(str(home.store.path(manifest.id) if manifest else base), "test")
    pairs = [(pair.sentence1, pair.sentence2, pair.score) for pair in make_pairs(200, seed=5)]
    return score(lambda texts: encoder.encode(model, texts)[:, :dimensions], pairs)


@pytest.mark.slow
def test_a_transformer_takes_them_too(home: Home, plain_encoder: Path) -> None:
    manifest = train(home, plain_encoder, 150, loss="mnrl", matryoshka="8", batch_size=16, gradient_accumulation=2)
    assert manifest.recipe["matryoshka"] == [16, 8]
    expected = np.ceil(np.ceil(manifest.split["train"] / 16) / 2)
    assert manifest.training["steps"] in (expected, expected - 1)  # batches without duplicates may be fewer


def test_the_paper_s_preset_has_the_paper_s_numbers() -> None:
    for static in (True, False):
        numbers = recipe_for(TrainerSettings(preset="dino"), static, 768, seed=1).for_rows(10_000, static)
        assert (numbers.loss, numbers.epochs, numbers.batch_size, numbers.learning_rate, numbers.warm_up) == (
            "CosineSimilarityLoss", 1, 32, 2e-5, 0.1,
        )  # fmt: skip
        assert (numbers.smoothing, numbers.random_pairs, numbers.most_per_label, numbers.evaluate_every) == (
            0.2, 2, 2, 100,
        )  # fmt: skip


def unlearnable(home: Home) -> None:
    """Pairs whose scores mean nothing: the dev score goes up and down."""
    random = np.random.default_rng(1)
    home.dataset.add(records([one.model_copy(update={"score": random.choice([0, 0.5, 1])}) for one in make_pairs(300)]))


def test_the_best_step_is_kept_not_the_last(home: Home, static_student: Path) -> None:
    unlearnable(home)
    manifest = home.published(home.run(plan(home.dataset, 1, static_student), learning_rate=0.05, epochs=6))
    report = (home.store.path(manifest.id) / "report" / "report.md").read_text()
    assert "checkpoint chosen by | generated dev pairs" in report
    assert manifest.training["best_step"] < manifest.training["steps"]


def test_a_round_that_gets_no_better_ends_early(home: Home, static_student: Path) -> None:
    unlearnable(home)
    settings = {"learning_rate": 0.05, "epochs": 12, "early_stop": 2}
    manifest = home.published(home.run(plan(home.dataset, 1, static_student), **settings))
    steps = recipe_for(TrainerSettings(epochs=12), True, 16, 1).steps(manifest.split["train"], 1)
    assert manifest.training["best_step"] < manifest.training["steps"] < steps


@pytest.mark.slow
def test_a_warm_start_goes_on_from_the_current_version(home: Home, static_student: Path) -> None:
    first = train(home, static_student, 450, **LEARN)
    home.dataset.finish(1, first.id)
    home.dataset.add(records(make_pairs(600)))
    round_ = plan(home.dataset, 1, static_student, start=first.id)
    second = home.published(home.run(round_, warm_start=True, replay=0.5, learning_rate=0.003, epochs=1))
    assert second.start == second.parent == first.id
    assert abs(second.scores["dev_before"] - first.scores["dev_after"]) < 15, "before is the start, not the base"
    assert second.scores["dev_after"] > first.scores["dev_after"] - 5 > first.scores["dev_before"]
    assert second.split["train"] < 0.6 * (first.split["train"] + 200)


@pytest.mark.slow
def test_a_teacher_that_nobody_needs_may_be_out_of_reach(home: Home, static_student: Path) -> None:
    home.settings = home.settings.model_copy(update={"teacher": "nobody/has-it"})
    trained = train(home, static_student, 90, max_steps=1)
    assert (trained.recipe["teacher_embeddings"], trained.training["teacher_embeddings"]) == (0, 0)


@pytest.mark.slow
def test_another_transformer_learns_from_pairs_alone(home: Home, plain_encoder: Path) -> None:
    trained = train(home, plain_encoder, 150, gate="off", max_steps=1)
    assert (trained.recipe["teacher_embeddings"], trained.training["teacher_embeddings"]) == (0, 0)


@pytest.mark.slow
def test_a_static_student_is_fitted_to_the_teacher(home: Home, static_student: Path, tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher", tied=True)
    home.settings = home.settings.model_copy(update={"teacher": str(tmp_path / "teacher")})
    first = train(home, static_student, 450, teacher_embeddings=300, max_steps=1)
    assert (first.recipe["teacher_embeddings"], first.training["teacher_embeddings"]) == (300, 300)
    plain = home.run(plan(home.dataset, 2, static_student), max_steps=1)[-1].version
    assert plain is not None
    words = [encoder.token_embeddings(encoder.load(str(folder), "test")) for folder in
             (static_student, home.store.path(first.id), home.store.path(plain))]  # fmt: skip
    assert np.abs(words[1] - words[0]).max() > 10 * np.abs(words[2] - words[0]).max(), "the step alone moves little"
    texts = sorted({text for pair in make_pairs(450) for text in (pair.sentence1, pair.sentence2)})
    bag = encoder.bag_of_tokens_matrix(encoder.load(str(static_student), "test"), texts)
    spread = [(unit(bag @ table) ** 2).mean(axis=0) for table in words]
    assert [falling(some) for some in spread] == [False, True, False], "the first dimensions tell sentences apart"
    [cache] = home.settings.dataset_dir.glob("embeddings-*.npz")
    written = cache.stat().st_mtime_ns
    cache.rename(cache.with_name(cache.name.replace("embeddings", "views")))  # retired: remove in 0.3
    home.run(plan(home.dataset, 1, static_student), teacher_embeddings=300, max_steps=1)
    assert cache.stat().st_mtime_ns == written, "each sentence is embedded once"
    home.dataset.finish(3, first.id)
    home.dataset.add(records(make_pairs(600)))
    continued = home.run(
        plan(home.dataset, 1, static_student, start=first.id), warm_start=True, teacher_embeddings=300, max_steps=1
    )
    assert continued[-1].version is not None
    assert home.store.manifest(continued[-1].version).training["teacher_embeddings"] == 0


@pytest.mark.slow
def test_short_texts_are_fitted_to_the_teacher_without_a_pair(home: Home, static_student: Path, tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher", tied=True)
    home.settings = home.settings.model_copy(update={"teacher": str(tmp_path / "teacher")})
    texts = sorted({pair.sentence1 for pair in make_pairs(900)})[:260]
    home.dataset.add_documents([make_document(str(number), text) for number, text in enumerate(texts)])
    told = home.run(plan(home.dataset, 1, static_student), teacher_embeddings=10_000)
    manifest = home.published(told)
    assert "embedding" in [progress.state for progress in told]
    assert (manifest.pairs, manifest.training["teacher_embeddings"]) == (0, len(texts))
    assert manifest.training["short_texts"] is True
    assert "corpus_terms" not in manifest.training
    assert f"{len(texts)} short texts" in (home.store.path(manifest.id) / "report" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("student", ["compact", "foreign"])
def test_a_transformer_learns_from_short_texts_without_a_pair(home: Home, plain_encoder: Path, student: str) -> None:
    texts = sorted({pair.sentence1 for pair in make_pairs(900)})[:220]
    home.dataset.add_documents([make_document(str(number), text) for number, text in enumerate(texts)])
    told = home.run(plan(home.dataset, 1, plain_encoder if student == "foreign" else student), gate="off")
    manifest = home.published(told)
    assert {"embedding", "distilling"} <= {progress.state for progress in told}
    assert (manifest.pairs, manifest.training["teacher_embeddings"]) == (0, len(texts))
    assert "corpus_terms" not in manifest.training


def test_teacher_embeddings_are_for_the_default_teachers_own_students() -> None:
    def count(learns_teacher: bool, static: bool = True, **settings: Any) -> int:
        return recipe_for(TrainerSettings(**settings), static, 512, 1, learns_teacher).teacher_embeddings

    assert (count(True), count(False), count(True, preset="dino")) == (10_000, 0, 0)
    assert (count(False, teacher_embeddings=50), count(True, teacher_embeddings=0)) == (50, 0)
    assert (count(False, static=False, teacher_embeddings=50), count(True, static=False)) == (0, 10_000)


@pytest.mark.slow
def test_human_scores_stand_apart_and_choose_only_when_told_to(home: Home, static_student: Path, sts: Path) -> None:
    manifest = train(home, static_student, 450, sts=sts, **LEARN)
    assert manifest.scores.keys() == {"dev_before", "dev_after"}
    assert manifest.human_scores["after"].keys() == manifest.human_scores["before"].keys() == {"one.test", "two.dev"}
    assert manifest.human_scores["after"]["one.test"] > manifest.human_scores["before"]["one.test"]
    assert manifest.selected_by == "generated dev pairs"
    folder = home.store.path(manifest.id)
    assert (folder / "report" / "sts.png").is_file()
    assert "No human label was used." in (folder / "README.md").read_text()

    other = home.published(home.run(plan(home.dataset, 1, static_student), sts=sts, select_on="two.dev", **LEARN))
    assert other.selected_by == "human-scored pairs: two.dev"
    assert "A human-scored set chose the checkpoint." in (home.store.path(other.id) / "README.md").read_text()
    with pytest.raises(Fatal, match="PAIRWRIGHT_TRAINER_SELECT_ON: there is no STS file 'stsb'; there is one"):
        home.run(plan(home.dataset, 1, static_student), sts=sts, select_on="stsb")


@pytest.mark.slow
def test_two_processes_share_a_round(home: Home, plain_encoder: Path) -> None:
    home.dataset.add(records(make_pairs(300)))
    round_ = plan(home.dataset, 1, plain_encoder)
    with home.start(round_, processes=2, epochs=2, learning_rate=1e-3) as process:
        assert process.stdout is not None
        told = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    assert home.store.current() == told[-1]["version"]
    manifest = home.store.verify(told[-1]["version"])
    one = recipe_for(TrainerSettings(epochs=2), False, 16, 1).steps(manifest.split["train"], 1)
    assert one / 2 - 2 <= manifest.training["steps"] <= one / 2 + 1  # the last batch of an epoch may be left out
    assert manifest.scores["dev_after"] != manifest.scores["dev_before"]
    steps = [(line["step"], line.get("fresh")) for line in told if "step" in line]
    assert [step for step, _ in steps] == sorted(step for step, _ in steps)
    assert all(steps.count(one) == 1 for one in steps), "one process tells"


@pytest.mark.slow
def test_one_of_two_processes_distils_the_compact_student(home: Home) -> None:
    home.dataset.add(records(make_pairs(450)))
    round_ = plan(home.dataset, 1, "compact")
    own = {"gate": "off", "teacher_embeddings": 210, "max_steps": 1, "learning_rate": 1e-9}
    with home.start(round_, processes=2, **own) as process:
        assert process.stdout is not None
        told = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    manifest = home.store.verify(told[-1]["version"])
    assert manifest.training["teacher_embeddings"] == 210
    states = [line.get("state", "training") for line in told]
    assert {"embedding", "distilling", "training"} <= set(states)
    base = locate.locate("compact", "default", home.settings.cache_dir)
    before, after = (
        compact.trained_parameters(encoder.load(str(folder), "test")) for folder in (base, home.store.path(manifest.id))
    )
    moved = [float((after[name] - old).detach().abs().max()) for name, old in before.items()]
    assert max(moved) > 1e-3, "one step at such a rate moves nothing"
