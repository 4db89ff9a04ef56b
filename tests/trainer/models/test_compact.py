"""The compact student: what it is before its layers are trained, and how trained ones are kept and found again."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import agreement
from scripts.stack import sentences
from services.trainer.evaluation.sts import unit
from services.trainer.models import compact, encoder
from services.trainer.models.static import Table
from services.trainer.students import locate, names
from shared.errors import Fatal
from shared.settings import Settings, load
from tests.support.pairs import NOUNS
from tests.support.students import default_encoder, word_tokenizer, write_teacher

TEXTS = ["a noun1 sees the noun2", "the noun2 sees a noun1", "noun3", "", " ".join(NOUNS)]
DIMENSIONS = 300


def make_table(seed: int = 1) -> Table:
    """Token embeddings of one length, their strongest dimensions first."""
    table = np.random.default_rng(seed).normal(size=(word_tokenizer().get_vocab_size(), DIMENSIONS))
    table[:, compact.HIDDEN - compact.CONSTANT :] = 0.0
    table[:, : compact.HIDDEN - compact.CONSTANT] -= table[:, : compact.HIDDEN - compact.CONSTANT].mean(1)[:, None]
    return np.asarray(table / np.linalg.norm(table, axis=1)[:, None], np.float32)


def with_random_layers() -> Any:
    model = compact.student(word_tokenizer(), make_table())
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in compact.trained_parameters(model).values():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_untrained_it_has_the_cosines_of_the_static_student() -> None:
    table = make_table()
    model = compact.student(word_tokenizer(), table)
    bag = encoder.bag_of_tokens_matrix(model, TEXTS[:3])
    expected = unit(np.asarray(bag[:, : len(table)] @ table))
    found = unit(encoder.encode(model, TEXTS[:3]))
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)
    assert encoder.dimensions(model) == 256
    assert encoder.max_seq_length(model) == 512


def test_neither_padding_nor_an_empty_text_harms_it() -> None:
    model = with_random_layers()
    together = encoder.encode(model, TEXTS)
    np.testing.assert_allclose(together, np.concatenate([encoder.encode(model, [text]) for text in TEXTS]), atol=1e-4)
    assert np.isfinite(together).all()
    assert np.abs(together[0] - together[1]).max() > 0.01, "the order of words tells"


def test_layers_are_kept_for_one_teacher_and_fit_the_same_student_on_other_axes(tmp_path: Path) -> None:
    teacher, file, model = np.ones((3, 2), np.float32), tmp_path / "layers.safetensors", with_random_layers()
    compact.save_layers(model, make_table(), teacher, {"sentences": "none"}, file)
    assert compact.layers_of(2 * teacher, file) is None
    layers = compact.layers_of(teacher, file)
    assert layers is not None
    vectors = encoder.encode(model, TEXTS)
    again = encoder.encode(compact.student(word_tokenizer(), make_table(), layers), TEXTS)
    np.testing.assert_allclose(again, vectors, atol=0.01)

    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(DIMENSIONS, DIMENSIONS)))[0]
    turned = np.asarray(make_table() @ rotation, np.float32)
    np.testing.assert_allclose(
        encoder.encode(compact.student(word_tokenizer(), turned, layers), TEXTS), vectors, atol=0.01
    )


def test_it_is_a_student_by_name_and_static_is_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    names.check("compact")
    for name, kept in (("compact", "compact"), ("static", "default")):
        monkeypatch.setenv("PAIRWRIGHT_STUDENT", name)
        assert load(Settings).student == kept


def test_another_teacher_has_none(tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher", tied=True)
    with pytest.raises(Fatal, match="PAIRWRIGHT_STUDENT: the layers of 'compact' were trained for the default teacher"):
        locate.locate("compact", str(tmp_path / "teacher"), tmp_path / "cache")


@pytest.mark.slow
def test_the_shipped_layers_bring_it_nearer_to_the_teacher(tmp_path: Path) -> None:
    cache, texts = load(Settings).cache_dir, sentences()[:150]
    teacher = default_encoder()
    static, made = (
        encoder.load(locate.locate(name, "default", cache), names.SETTING) for name in ("default", "compact")
    )
    assert teacher.adapter is not None
    centre = teacher.adapter.centre.numpy()
    measure = agreement.measure(lambda some: teacher.encode(some) - centre, texts, {})
    before, after = (measure(partial(encoder.encode, model)) for model in (static, made))
    assert after["all pairs"] > before["all pairs"] + 1
    one, other = unit(encoder.encode(made, ["A dog bites a man.", "A man bites a dog."]))
    assert one @ other < 0.999, "a mean of words can't tell these apart"
