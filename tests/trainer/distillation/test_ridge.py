"""Fitting a static student to teacher embeddings whose truth is known."""

import numpy as np
from scipy.sparse import csr_matrix, random_array

from services.trainer.distillation.ridge import (
    _conjugate_gradients,
    distillation_target,
    fit_to_teacher,
    rotate_to_principal_axes,
)
from tests.support.orders import agreement

TOKENS, DIMENSIONS, HIDDEN, SENTENCES = 120, 12, 16, 900


def world(seed: int) -> tuple[np.ndarray, csr_matrix, np.ndarray]:
    """A table, sentences, and teacher embeddings by true tokens, of which the table is a map with noise."""
    generator = np.random.default_rng(seed)
    truth = generator.standard_normal((TOKENS, HIDDEN))
    table = truth @ generator.standard_normal((HIDDEN, DIMENSIONS)) + 2 * generator.standard_normal(
        (TOKENS, DIMENSIONS)
    )
    bag = csr_matrix(random_array((SENTENCES, TOKENS), density=0.05, rng=generator, format="csr"))
    bag = csr_matrix(bag.multiply(1 / np.maximum(np.asarray(bag.sum(axis=1)).reshape(-1, 1), 1e-9)))
    return table.astype(np.float32), bag, (bag @ truth + 3.0).astype(np.float32)


def agreement_with(table: np.ndarray, bag: csr_matrix, embeddings: np.ndarray) -> float:
    """Agreement of the student's sentences with the centred teacher embeddings."""
    return agreement(bag @ table, embeddings - embeddings.mean(axis=0))


def test_sentences_that_were_not_fitted_come_nearer_too() -> None:
    table, bag, embeddings = world(1)
    fitted, unseen = slice(0, 700), slice(700, None)
    before = agreement_with(table, bag[unseen], embeddings[unseen])
    few, many = (
        agreement_with(fit_to_teacher(table, bag[part], embeddings[part]), bag[unseen], embeddings[unseen])
        for part in (slice(0, 200), fitted)
    )
    assert before < few < many
    assert many > before + 0.05


def test_shuffled_embeddings_teach_nothing() -> None:
    table, bag, embeddings = world(2)
    shuffled = np.random.default_rng(0).permutation(embeddings)
    after = fit_to_teacher(table, bag[:700], shuffled[:700])
    assert (
        agreement_with(after, bag[700:], embeddings[700:]) < agreement_with(table, bag[700:], embeddings[700:]) + 0.01
    )


def test_the_size_of_the_table_stays() -> None:
    table, bag, embeddings = world(3)
    fitted = fit_to_teacher(table, bag, embeddings)
    assert fitted.shape == table.shape
    assert fitted.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(fitted, axis=1).mean(), np.linalg.norm(table, axis=1).mean(), rtol=1e-5)
    assert fit_to_teacher(table, bag, embeddings).tobytes() == fitted.tobytes()


def test_rotating_changes_no_cosine_and_puts_most_of_what_sentences_say_first() -> None:
    table, bag, _ = world(6)
    table = table @ np.diag(np.arange(1, DIMENSIONS + 1, dtype=np.float32)) + np.roll(table, 1, axis=1)
    bag = bag[np.asarray(bag.sum(axis=1)).ravel() > 0]
    rotated = rotate_to_principal_axes(table, bag)
    assert rotated.dtype == np.float32
    np.testing.assert_allclose(rotated @ rotated.T, table @ table.T, rtol=1e-3, atol=1e-2)
    short = (table_[:, :4] for table_ in (table, rotated, rotated[:, ::-1]))
    first, then, last = (agreement(bag @ table_, bag @ table) for table_ in short)
    assert then > max(first, last) + 0.1
    means = bag @ rotated
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert (np.diff((means**2).mean(axis=0)) < 1e-6).all()
    np.testing.assert_allclose(rotate_to_principal_axes(rotated, bag), rotated, atol=1e-3 * np.abs(rotated).max())


def test_targets_are_unit_vectors_around_no_common_direction() -> None:
    target = distillation_target(world(4)[2])
    np.testing.assert_allclose(np.linalg.norm(target, axis=1), 1)
    assert np.linalg.norm(target.mean(axis=0)) < 0.1


def test_conjugate_gradients_solve_every_column() -> None:
    generator = np.random.default_rng(5)
    root = generator.standard_normal((40, 40))
    matrix, right = root @ root.T + np.eye(40), generator.standard_normal((40, 3))
    right[:, 2] = 0
    np.testing.assert_allclose(
        _conjugate_gradients(lambda some: matrix @ some, right), np.linalg.solve(matrix, right), atol=1e-3
    )
