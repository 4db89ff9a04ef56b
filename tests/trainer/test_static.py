"""The arithmetic of the default student."""

import numpy as np

from services.trainer.static import DIMENSIONS, DROPPED, word_vectors


def random_table(tokens: int, hidden: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((tokens, hidden)).astype(np.float32)


def test_common_directions_go_and_the_rest_keeps_its_inner_products() -> None:
    table = random_table(200, 20)
    centred = table - table.mean(axis=0)
    _, _, components = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    rest = centred @ components[DROPPED:].T
    weights = np.log1p(np.arange(200))
    expected = (rest @ rest.T) * np.outer(weights, weights)
    found = word_vectors(table)
    assert found.shape == (200, 20 - DROPPED)
    np.testing.assert_allclose(found @ found.T, expected, atol=2e-3)


def test_a_wide_table_is_cut() -> None:
    assert word_vectors(random_table(700, 600)).shape == (700, DIMENSIONS)


def test_a_mirrored_table_gives_the_same_signs() -> None:
    table = random_table(200, 20)
    mirrored = table.copy()
    mirrored[:, 3] *= -1  # the eigenvectors' signs change, and only the rule about the largest entry undoes it
    found, other = word_vectors(table), word_vectors(mirrored)
    np.testing.assert_allclose(np.abs(found), np.abs(other), atol=1e-4)
    assert word_vectors(table).tobytes() == found.tobytes()


def test_the_commonest_token_weighs_nothing() -> None:
    assert not word_vectors(random_table(50, 10))[0].any()
