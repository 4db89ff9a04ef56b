"""How sure a correlation is."""

import numpy as np
import pytest

from services.trainer.evaluation.bootstrap import interval


@pytest.mark.slow
def test_the_bootstrap_agrees_with_the_theory() -> None:
    random = np.random.default_rng(3)
    gold = random.normal(size=1500)
    cosines = 0.85 * gold + np.sqrt(1 - 0.85**2) * random.normal(size=1500)
    low, high = interval(gold.tolist(), cosines)
    # Standard error about (1 - rho^2) / sqrt(n) for Pearson; Spearman's is a little wider.
    expected = 2 * 1.96 * 100 * (1 - 0.85**2) / np.sqrt(1500)
    assert expected * 0.8 < high - low < expected * 1.5


def test_pairs_of_one_sentence_are_drawn_together() -> None:
    random = np.random.default_rng(4)
    gold = random.normal(size=100)
    cosines = gold + random.normal(size=100)
    repeated = np.repeat(np.arange(100), 10)
    naive = interval(gold[repeated].tolist(), cosines[repeated])
    grouped = interval(gold[repeated].tolist(), cosines[repeated], repeated.tolist())
    once = interval(gold.tolist(), cosines)
    assert np.diff(grouped)[0] == pytest.approx(np.diff(once)[0], rel=0.05)
    assert np.diff(naive)[0] < 0.5 * np.diff(once)[0]
