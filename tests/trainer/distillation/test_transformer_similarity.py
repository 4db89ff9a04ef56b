"""A transformer learns cosines: of its teacher, or those mixed with its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.trainer.distillation.transformer_similarity import (
    Sentences,
    TrainingConfig,
    distill_similarities,
    mixture,
)
from services.trainer.models import encoder
from tests.support.orders import agreement
from tests.support.pairs import make_pairs
from tests.support.students import write_encoder

TEXTS = sorted({text for pair in make_pairs(200, seed=1) for text in (pair.sentence1, pair.sentence2)})


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)


def losses(model: Any, texts: list[str], targets: np.ndarray, steps: int) -> list[float]:
    """Of each step, without the noise of dropout."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    texts = [encoder.default_prompt(model) + text for text in texts]
    sentences = Sentences(texts, torch.from_numpy(targets), [[number] for number in range(len(texts))])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return list(distill_similarities(model, parameters, sentences, TrainingConfig(steps, 3e-3, 64)))


def test_cosines_of_a_mixture_are_mixed_however_long_the_vectors_are() -> None:
    one, other = torch.randn(5, 3), 40 * torch.randn(5, 7)
    mixed = mixture(one, other, 0.7)
    assert mixed.shape == (5, 10)
    torch.testing.assert_close(cosines(mixed), 0.7 * cosines(one) + 0.3 * cosines(other))


@pytest.mark.slow
def test_cosines_come_nearer_to_the_target(plain_encoder: Path) -> None:
    model = encoder.load(str(plain_encoder), "test")
    own = encoder.encode(model, TEXTS)
    rows = np.asarray([[text.count(letter) for letter in "abcdefgh"] for text in TEXTS], np.float32)
    target = rows - rows.mean(axis=0)
    assert len(losses(model, TEXTS, target, 60)) == 60
    assert agreement(encoder.encode(model, TEXTS), target) > agreement(own, target) + 0.2


@pytest.mark.slow
def test_nothing_is_left_to_learn_where_a_students_own_cosines_are_the_target(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model")
    model = encoder.load(str(tmp_path / "model"), "test")
    assert encoder.default_prompt(model) == ""
    model.prompts, model.default_prompt_name = {"query": "query: "}, "query"
    model.save(str(tmp_path / "prompted"))
    for folder in ("model", "prompted"):
        model = encoder.load(str(tmp_path / folder), "test")
        texts = [f"{text} {model.tokenizer.pad_token} {text}" for text in TEXTS[:64]]  # that token is a word here
        assert losses(model, texts, encoder.encode(model, texts), 1)[0] < 1e-5
    assert encoder.default_prompt(model) == "query: "
