"""The arithmetic of the default student."""

import numpy as np

from services.trainer.models.static import DIMENSIONS, DROPPED, HALF_WEIGHT, word_vectors


def random_table(tokens: int, hidden: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((tokens, hidden)).astype(np.float32)


def names(tokens: int) -> list[str]:
    """Tokens that are no words: each stays by itself."""
    return [f"<{number}>" for number in range(tokens)]


def test_common_directions_go_and_the_rest_keeps_its_inner_products() -> None:
    table = random_table(200, 20)
    centred = table - table.mean(axis=0)
    _, _, components = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    rest = centred @ components[DROPPED:].T
    ids = np.arange(200)
    weights = np.log1p(200) * ids / (ids + HALF_WEIGHT)
    expected = (rest @ rest.T) * np.outer(weights, weights)
    found = word_vectors(table, names(200))
    assert found.shape == (200, 20 - DROPPED)
    np.testing.assert_allclose(found @ found.T, expected, atol=2e-3)


def test_a_wide_table_is_cut() -> None:
    assert word_vectors(random_table(700, 600), names(700)).shape == (700, DIMENSIONS)


def test_a_mirrored_table_gives_the_same_signs() -> None:
    table = random_table(200, 20)
    mirrored = table.copy()
    mirrored[:, 3] *= -1  # the eigenvectors' signs change, and only the rule about the largest entry undoes it
    found, other = word_vectors(table, names(200)), word_vectors(mirrored, names(200))
    np.testing.assert_allclose(np.abs(found), np.abs(other), atol=1e-4)
    assert word_vectors(table, names(200)).tobytes() == found.tobytes()


def test_the_commonest_token_weighs_nothing() -> None:
    assert not word_vectors(random_table(50, 10), names(50))[0].any()


def test_spellings_of_a_word_share_a_vector_and_other_tokens_do_not() -> None:
    tokens = names(30)
    tokens[3], tokens[9], tokens[20] = "Dog", "\u0120dog", "dog"
    tokens[4], tokens[25] = "\u2581Cat", "\u2581cat"
    tokens[5], tokens[6] = "12", "\u012012"
    found = word_vectors(random_table(30, 10), tokens)
    for same in ([3, 9, 20], [4, 25]):
        assert len({found[number].tobytes() for number in same}) == 1
    assert len({row.tobytes() for row in found}) == 30 - 3


def test_a_word_weighs_as_its_form_inside_a_text() -> None:
    table = random_table(30, 10)
    apart, together = names(30), names(30)
    together[3], together[9] = "dog", "\u0120dog"
    table[3] = table[9]
    before, after = (word_vectors(table, tokens) for tokens in (apart, together))
    np.testing.assert_allclose(after[3], before[9], rtol=1e-5)
