"""What a static student learns of the teacher's views, on views whose truth is known."""

import numpy as np
from scipy.sparse import csr_matrix, random_array

from services.trainer.distillation.ridge import _conjugate_gradients, fit_to_teacher, rotate_to_principal_axes, targets
from tests.support.orders import agreement

TOKENS, DIMENSIONS, HIDDEN, SENTENCES = 120, 12, 16, 900


def world(seed: int) -> tuple[np.ndarray, csr_matrix, np.ndarray]:
    """A table, sentences, and views by true word vectors that the table shows only through a map and noise."""
    generator = np.random.default_rng(seed)
    truth = generator.standard_normal((TOKENS, HIDDEN))
    table = truth @ generator.standard_normal((HIDDEN, DIMENSIONS)) + 2 * generator.standard_normal(
        (TOKENS, DIMENSIONS)
    )
    bags = csr_matrix(random_array((SENTENCES, TOKENS), density=0.05, rng=generator, format="csr"))
    bags = csr_matrix(bags.multiply(1 / np.maximum(np.asarray(bags.sum(axis=1)).reshape(-1, 1), 1e-9)))
    return table.astype(np.float32), bags, (bags @ truth + 3.0).astype(np.float32)


def near(table: np.ndarray, bags: csr_matrix, views: np.ndarray) -> float:
    """Agreement of the student's sentences with the views, less what these have in common."""
    return agreement(bags @ table, views - views.mean(axis=0))


def test_sentences_that_were_not_looked_at_come_nearer_too() -> None:
    table, bags, views = world(1)
    seen, unseen = slice(0, 700), slice(700, None)
    before = near(table, bags[unseen], views[unseen])
    few, many = (
        near(fit_to_teacher(table, bags[part], views[part]), bags[unseen], views[unseen])
        for part in (slice(0, 200), seen)
    )
    assert before < few < many
    assert many > before + 0.05


def test_views_that_mean_nothing_teach_nothing() -> None:
    table, bags, views = world(2)
    shuffled = np.random.default_rng(0).permutation(views)
    after = fit_to_teacher(table, bags[:700], shuffled[:700])
    assert near(after, bags[700:], views[700:]) < near(table, bags[700:], views[700:]) + 0.01


def test_the_size_of_the_table_stays() -> None:
    table, bags, views = world(3)
    found = fit_to_teacher(table, bags, views)
    assert found.shape == table.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1).mean(), np.linalg.norm(table, axis=1).mean(), rtol=1e-5)
    assert fit_to_teacher(table, bags, views).tobytes() == found.tobytes()


def test_turning_changes_no_cosine_and_puts_most_of_what_sentences_say_first() -> None:
    table, bags, _ = world(6)
    table = table @ np.diag(np.arange(1, DIMENSIONS + 1, dtype=np.float32)) + np.roll(table, 1, axis=1)
    bags = bags[np.asarray(bags.sum(axis=1)).ravel() > 0]
    found = rotate_to_principal_axes(table, bags)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found @ found.T, table @ table.T, rtol=1e-3, atol=1e-2)
    short = (words[:, :4] for words in (table, found, found[:, ::-1]))
    first, then, last = (agreement(bags @ words, bags @ table) for words in short)
    assert then > max(first, last) + 0.1
    means = bags @ found
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert (np.diff((means**2).mean(axis=0)) < 1e-6).all()
    np.testing.assert_allclose(rotate_to_principal_axes(found, bags), found, atol=1e-3 * np.abs(found).max())


def test_targets_are_unit_vectors_around_no_common_direction() -> None:
    found = targets(world(4)[2])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    assert np.linalg.norm(found.mean(axis=0)) < 0.1


def test_conjugate_gradients_solve_every_column() -> None:
    generator = np.random.default_rng(5)
    root = generator.standard_normal((40, 40))
    matrix, wanted = root @ root.T + np.eye(40), generator.standard_normal((40, 3))
    wanted[:, 2] = 0
    np.testing.assert_allclose(
        _conjugate_gradients(lambda some: matrix @ some, wanted), np.linalg.solve(matrix, wanted), atol=1e-3
    )
