"""Half-way between base and what was trained: the mean of weights, and how much of it is chosen."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.trainer.estimation.estimate import RankEstimator
from services.trainer.estimation.sample import near_and_far
from services.trainer.evaluation.sts import unit
from services.trainer.models import encoder
from services.trainer.models.averaging import average
from services.trainer.publishing.mixture import mix
from tests.support.pairs import make_pairs

TEXTS = list(dict.fromkeys(pair.sentence1 for pair in make_pairs(600)))


def cosines(model: Any) -> np.ndarray:
    vectors = unit(encoder.encode(model, TEXTS))
    return np.asarray(vectors @ vectors.T)


def changed(model: Any, folder: Path, scale: float, rotated: bool = False) -> Any:
    """Another student: noise on its token embeddings, which may be rotated too."""
    other, random = encoder.load(str(folder), "student"), np.random.default_rng(5)
    table = encoder.token_embeddings(model)
    table = table + scale * table.std() * random.standard_normal(table.shape).astype(np.float32)
    if rotated:
        table = table @ np.linalg.qr(random.standard_normal((table.shape[1],) * 2))[0].astype(np.float32)
    encoder.set_token_embeddings(other, table)
    return other


def test_a_rotation_is_no_difference(static_student: Path) -> None:
    base = encoder.load(str(static_student), "student")
    rotated = changed(base, static_student, 0.0, rotated=True)
    np.testing.assert_allclose(cosines(average(base, rotated, 0.5)), cosines(base), atol=1e-4)


def test_weights_of_a_transformer_are_averaged(plain_encoder: Path, static_student: Path) -> None:
    base, other = (encoder.load(str(plain_encoder), "student") for _ in range(2))
    for weight in other.parameters():
        weight.data += 1.0
    half = average(base, other, 0.25).state_dict()
    for name, weight in base.state_dict().items():
        if weight.is_floating_point() and name in dict(base.named_parameters()):
            np.testing.assert_allclose(half[name].numpy(), weight.numpy() + 0.25, atol=1e-5)
    with pytest.raises(ValueError, match="different layers"):
        average(encoder.load(str(static_student), "student"), other, 0.5)


def test_a_base_without_a_map_counts_as_one_that_maps_nothing(plain_encoder: Path) -> None:
    base, mapped = (encoder.load(str(plain_encoder), "student") for _ in range(2))
    size = encoder.dimensions(base)
    encoder.add_linear_map(mapped, np.diag(np.linspace(0.5, 2.0, size)).astype(np.float32))
    half = encoder.encode(average(base, mapped, 0.5), TEXTS)
    expected = encoder.encode(base, TEXTS) @ np.diag((1 + np.linspace(0.5, 2.0, size)) / 2)
    np.testing.assert_allclose(unit(half), unit(expected), atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode(average(base, mapped, 0.0), TEXTS), encoder.encode(base, TEXTS), atol=1e-5
    )


@pytest.mark.parametrize(("truth", "share"), [("trained", 1.0), ("between", 0.5)])
def test_the_share_is_the_one_that_is_estimated_to_be_best(static_student: Path, truth: str, share: float) -> None:
    base = encoder.load(str(static_student), "student")
    trained = changed(base, static_student, 1.5)
    pairs = near_and_far(TEXTS, [encoder.encode(base, TEXTS)])
    knows = trained if truth == "trained" else average(base, trained, 0.5)
    estimator = RankEstimator("grouping", pairs, pairs.cosines(encoder.encode(knows, pairs.texts)))
    mixture = mix(base, trained, [estimator])
    assert mixture.share == share
    assert mix(base, trained, []).share == 1.0
    assert partial(encoder.encode, mixture.model)(TEXTS[:1]).shape == (1, encoder.dimensions(base))
