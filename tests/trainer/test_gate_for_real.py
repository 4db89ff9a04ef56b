"""The gate on real texts, with the default student and the default teacher's likelihood."""

from collections.abc import Sequence
from typing import Any

import pytest

from experiments.candidates import shuffle_partners
from services.trainer.distillation.corpus import SENTENCES, corpus_of
from services.trainer.evaluation.sts import Row
from services.trainer.models import adapter, encoder
from services.trainer.progress import Progress
from services.trainer.students import locate
from shared.manifest import Manifest
from shared.pairs import Pair
from shared.teacher import default_teacher
from tests.support.orders import agreement
from tests.support.pairs import hotel_rows, plan, records
from tests.support.trainer_homes import Home

KEPT: list[Any] = []
"""Name and bytes of the file of what the language model said."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("gate"), pytest.mark.timeout(1200)]
"""A language model reads for five minutes on two cores that do much else and have no bfloat16."""


def run(home: Home, pairs: Sequence[Row], student: str = "default", **own: Any) -> tuple[Progress, Manifest]:
    """A round in a fresh home: there is no version yet, and the base is the reference."""
    if KEPT:  # the same texts need to be read once
        (home.settings.dataset_dir / KEPT[0]).write_bytes(KEPT[1])
    home.dataset.add(records([Pair(sentence1=one, sentence2=other, score=score) for one, other, score in pairs]))
    last = home.run_apart(plan(home.dataset, 1, student), gate="estimate", **own)[-1]
    if not KEPT:
        [file] = home.settings.dataset_dir.glob("mutual-information-*.npz")
        KEPT.extend([file.name, file.read_bytes()])
    [manifest] = [*home.store.versions(), *home.store.rejected()]
    return last, manifest


def test_a_round_that_helps_is_published_and_says_why(home: Home) -> None:
    last, manifest = run(home, hotel_rows(), teacher_embeddings=300)
    assert last.outcome == "published", manifest.gate
    assert manifest.gate["reason"].startswith("it is estimated to be better than base: +")
    own, base = manifest.estimates["candidate"]["grouping"], manifest.estimates["base"]["grouping"]
    assert base.value < own.value
    assert own.low < own.value < own.high
    assert last.estimates["candidate"]["grouping"] == own.value
    report = (home.store.path(manifest.id) / "report" / "report.md").read_text()
    assert "## Label-free estimate" in report
    assert manifest.gate["reason"] in report
    assert "s for 300 teacher embeddings" in report
    card = (home.store.path(manifest.id) / "README.md").read_text().split("---")[1].splitlines()
    assert {"base_model: HuggingFaceTB/SmolLM2-135M-Instruct", "license: apache-2.0"} <= set(card)


def test_a_round_of_the_compact_student_is_published_and_keeps_general_text(home: Home) -> None:
    last, manifest = run(home, hotel_rows(), "compact", teacher_embeddings=300)
    assert last.outcome == "published", manifest.gate
    assert manifest.gate["reason"].startswith("it is estimated to be better than base: +")
    assert (manifest.recipe["teacher_embeddings"], manifest.training["teacher_embeddings"]) == (300, 300)
    table = encoder.token_table(default_teacher(home.settings.cache_dir))
    general, adapted = corpus_of(table), adapter.adapter_of(table)
    assert general is not None
    assert adapted is not None
    target = general.embeddings[:1000] - adapted.centre.numpy()
    base, version = locate.locate("compact", "default", home.settings.cache_dir), home.store.path(manifest.id)
    before, after = (
        agreement(encoder.encode(encoder.load(str(folder), "test"), general.texts[:1000]), target)
        for folder in (base, version)
    )
    assert after > before - 0.03


def test_a_placebo_is_not_published(home: Home) -> None:
    last, manifest = run(home, shuffle_partners(hotel_rows(), 1), teacher_embeddings=0)
    assert last.outcome in ("rejected", "held"), manifest.gate
    assert manifest.gate["compared"]["base"]["grouping"]["better"] < 0.95
    assert home.store.current() is None


def test_texts_that_have_nothing_to_do_with_each_other_are_no_evidence(home: Home) -> None:
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()[::150][:120]
    pairs = [(one, other, 1.0) for one, other in zip(texts[::2], texts[1::2], strict=True)]
    last, manifest = run(home, pairs, teacher_embeddings=0)
    assert last.outcome == "held"
    assert "no evidence" in (manifest.rejection or "")
    assert manifest.held
    assert manifest.estimates == {}
    assert home.store.current() is None
