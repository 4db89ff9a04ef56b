"""Candidates that are made on purpose, and whether the estimate ranks them as people do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.candidates import SEEDLESS, Base, Domain, shuffle_partners, vectors
from experiments.estimates import agreement, markdown, unique
from tests.support.pairs import make_pairs
from tests.support.students import write_static, write_teacher

PAIRS = [(pair.sentence1, pair.sentence2, pair.score) for pair in make_pairs(240)]
TEXTS = sorted({row[0] for row in PAIRS})


def row(candidate: str, people: float, estimate: float, better: float = 0.5, seed: int = 1) -> dict[str, Any]:
    return {
        "domain": "d", "student": "static", "candidate": candidate, "seed": seed, "people": {"map": people},
        "estimate": {"value": estimate, "low": 0.0, "high": 9.0},
        "against_base": {"value": estimate - 5, "low": -1.0, "high": 1.0, "worse": 0.0, "better": better},
    }  # fmt: skip


def test_harmful_candidates_are_counted_where_the_estimate_has_them() -> None:
    rows = [row("base", 50, 5), row("good", 52, 6, 0.99), row("bad", 48, 4), row("worse", 40, 7, 0.97)]
    assert agreement(rows) == {
        "candidates": 4, "spearman": {"all": -0.2, "static": -0.2},
        "harmful": 2, "harmful_above_base": 1, "harmful_published": 1,
    }  # fmt: skip
    assert markdown(rows).splitlines()[2].startswith("| static | good | 1 | 52.0 | +2.0 | 6.0 | +1.0 | -1.0 to +1.0 |")


def test_what_depends_on_no_seed_stands_once() -> None:
    rows = [row(name, 50, 5, seed=seed) for seed in (1, 2) for name in ("base", "pairs")]
    assert [(one["candidate"], one["seed"]) for one in unique(rows)] == [("base", 2), ("pairs", 1), ("pairs", 2)]


def test_a_placebo_keeps_scores_and_sentences_but_not_who_belongs_to_whom() -> None:
    shuffled = shuffle_partners(PAIRS, 1)
    assert sorted((one, score) for one, _, score in shuffled) == sorted((one, score) for one, _, score in PAIRS)
    assert sorted((other, score) for _, other, score in shuffled) == sorted((other, score) for _, other, score in PAIRS)
    assert len(set(shuffled) & set(PAIRS)) < 0.1 * len(PAIRS)


@pytest.mark.slow
def test_candidates_are_made_once_and_differ(tmp_path: Path) -> None:
    write_static(tmp_path / "student")
    write_teacher(tmp_path / "teacher", tied=True)
    base = Base("static", str(tmp_path / "student"), tmp_path / "teacher", tmp_path)
    domain, texts = Domain("d", TEXTS, PAIRS, PAIRS[:60]), {"sample": TEXTS}
    made = vectors(base, domain, 1, texts, tmp_path)
    assert {"base", "mean removed", "pairs", "half of pairs", "placebo", "default round"} <= made.keys()
    np.testing.assert_allclose(made["mean removed"]["sample"].mean(axis=0), 0, atol=0.01)
    for name, own in made.items():
        assert name == "base" or not np.allclose(own["sample"], made["base"]["sample"])
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("d-static-*.npz")}
    assert len(files) == len(made)
    again = vectors(base, domain, 1, texts, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert all(np.array_equal(again[name]["sample"], made[name]["sample"]) for name in made)
    assert set(SEEDLESS) <= made.keys()
