"""The terms of a corpus in a student: passages of made-up words are told apart, general text stays the same."""

import numpy as np
from scipy.sparse import csr_matrix

from services.trainer.distillation.corpus_terms import add_corpus_terms, corpus_linear_map
from services.trainer.evaluation.sts import unit

TOKENS, DIMENSIONS = 400, 64
COMMON, OWN = np.arange(60), np.arange(60, 360)
"""Tokens that are everywhere, those of the corpus alone, and 40 that only general text has."""


def bag(texts: list[np.ndarray]) -> csr_matrix:
    """The share of each token in each text."""
    dense = np.stack([np.bincount(text, minlength=TOKENS) / len(text) for text in texts])
    return csr_matrix(dense)


def world(seed: int = 0) -> tuple[np.ndarray, csr_matrix, csr_matrix, csr_matrix]:
    """A random table that common tokens dominate, 60 passages, a query for each, and general text."""
    random = np.random.default_rng(seed)
    table = random.standard_normal((TOKENS, DIMENSIONS)).astype(np.float32)
    table[COMMON] *= 3
    words = [random.choice(OWN, 8, replace=False) for _ in range(60)]
    passages = bag([np.concatenate([some, random.choice(COMMON, 30)]) for some in words])
    queries = bag([np.concatenate([some[:2], random.choice(COMMON, 5)]) for some in words])
    general = bag([random.choice(np.concatenate([COMMON, np.arange(360, 400)]), 12) for _ in range(500)])
    return table, passages, queries, general


def reciprocal_rank(table: np.ndarray, queries: csr_matrix, passages: csr_matrix) -> float:
    """Of each query's own passage, on average."""
    cosines = unit(queries @ table) @ unit(passages @ table).T
    return float(np.mean(1 / (1 + (cosines > np.diag(cosines)[:, None]).sum(axis=1))))


def test_the_own_passage_comes_first_more_often() -> None:
    table, passages, queries, general = world()
    better = add_corpus_terms(table, passages, general)
    assert better.shape == table.shape
    assert better.dtype == np.float32
    assert reciprocal_rank(better, queries, passages) > reciprocal_rank(table, queries, passages) + 0.2


def test_general_text_keeps_its_cosines() -> None:
    table, passages, _, general = world()
    better = add_corpus_terms(table, passages, general)
    old, new = (unit(general @ some) for some in (table, better))
    pairs = np.triu_indices(len(old), k=1)
    assert np.corrcoef((old @ old.T)[pairs], (new @ new.T)[pairs])[0, 1] > 0.8


def test_the_same_corpus_gives_the_same_table() -> None:
    table, passages, _, general = world()
    np.testing.assert_array_equal(
        add_corpus_terms(table, passages, general), add_corpus_terms(table, passages, general)
    )


def test_tokens_of_no_passage_have_no_terms() -> None:
    """What they have left is their old vector: their cosines with one another change by what is cut off alone."""
    table, passages, _, general = world()
    better = add_corpus_terms(table, passages, general)
    old, new = (unit(some[360:]) for some in (table, better))
    pairs = np.triu_indices(len(old), k=1)
    assert np.corrcoef((old @ old.T)[pairs], (new @ new.T)[pairs])[0, 1] > 0.6


def test_fewer_passages_than_dimensions_take_fewer_dimensions() -> None:
    table, passages, queries, general = world()
    few = passages[:10]
    better = add_corpus_terms(table, few, general)
    assert np.linalg.matrix_rank(better) == DIMENSIONS
    assert reciprocal_rank(better, queries[:10], few) >= reciprocal_rank(table, queries[:10], few)


def mapped_world() -> tuple[np.ndarray, csr_matrix, csr_matrix, csr_matrix]:
    """As `world`, of 400 passages, in which common tokens and the corpus' own have directions of their own."""
    table, _, _, general = world()
    table[:, : DIMENSIONS // 2] *= np.isin(np.arange(TOKENS), OWN)[:, None]
    table[OWN, DIMENSIONS // 2 :] = 0
    table[COMMON] /= 3
    random = np.random.default_rng(1)
    words = [random.choice(OWN, 8, replace=False) for _ in range(400)]
    passages = bag([np.concatenate([some, random.choice(COMMON, 30)]) for some in words])
    queries = bag([np.concatenate([some[:4], random.choice(COMMON, 5)]) for some in words])
    return table, passages, queries, general


def test_a_map_puts_the_own_passage_first_more_often() -> None:
    table, passages, queries, general = mapped_world()
    mapped = table @ corpus_linear_map(passages @ table, passages, general)
    assert reciprocal_rank(mapped, queries, passages) > reciprocal_rank(table, queries, passages) + 0.1


def test_a_map_keeps_cosines_of_general_text() -> None:
    table, passages, _, general = mapped_world()
    matrix = corpus_linear_map(passages @ table, passages, general)
    old, new = unit(general @ table), unit(general @ table @ matrix)
    pairs = np.triu_indices(len(old), k=1)
    assert np.corrcoef((old @ old.T)[pairs], (new @ new.T)[pairs])[0, 1] > 0.8


def test_a_map_is_symmetrical_and_the_same_for_vectors_of_any_length() -> None:
    table, passages, _, general = mapped_world()
    matrix = corpus_linear_map(passages @ table, passages, general)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    np.testing.assert_allclose(corpus_linear_map(7 * (passages @ table), passages, general), matrix, atol=1e-5)
