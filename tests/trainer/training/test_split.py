"""What becomes of the collected pairs: promises that hold for any pairs."""

import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.dataset.arrow import read_table
from services.trainer.dataset.store import StoredPair
from services.trainer.settings import TrainerSettings
from services.trainer.training import split
from services.trainer.training.recipe import Recipe, recipe_for
from services.trainer.training.split import NoNewPairs, Replay, Split, in_dev, prepared
from services.trainer.training.split import prepare as prepare_rows
from shared.pairs import Pair
from tests.support.pairs import make_pairs

sentences = st.integers(0, 30).map(lambda number: f"Sentence {number}.")
some_pairs = st.lists(
    st.builds(Pair, sentence1=sentences, sentence2=sentences, score=st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
    max_size=60,
    unique_by=lambda pair: pair.content_hash,
)
seeds = st.integers(0, 1000)


def recipe(seed: int, **settings: Any) -> Recipe:
    return recipe_for(TrainerSettings(**settings), static=True, dimensions=16, seed=seed)


@dataclass(frozen=True)
class Read:
    """Rows, read back from their files."""

    train: list[Pair]
    dev: list[Pair]
    rows: Split

    @property
    def dev_problem(self) -> str | None:
        return self.rows.dev_problem


def stored(pairs: list[Pair]) -> list[StoredPair]:
    """As the dataset gives them: in order of their sentences, whatever order they came in."""
    rows = [
        StoredPair(number, bytes.fromhex(pair.content_hash), pair.sentence1, pair.sentence2, pair.score)
        for number, pair in enumerate(pairs, start=1)
    ]
    return sorted(rows, key=lambda row: (row.sentence1, row.sentence2))


def prepare(pairs: list[Pair], seed: int, replay: Replay | None = None, **settings: Any) -> Read:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = prepare_rows(stored(pairs), recipe(seed, **settings), folder, replay)
        assert prepared(folder) == rows
        train = [Pair(**row) for row in read_table(folder / "train.arrow").to_pylist()]
    dev = [Pair(sentence1=one, sentence2=other, score=score) for one, other, score in rows.dev]
    return Read(train, dev, rows)


def added(rows: Read, pairs: list[Pair]) -> list[Pair]:
    """The random pairs among the training rows: those that nobody gave."""
    given_ones = {(pair.sentence1, pair.sentence2) for pair in pairs}
    return [pair for pair in rows.train if (pair.sentence1, pair.sentence2) not in given_ones]


@given(some_pairs, seeds)
def test_the_order_of_the_pairs_does_not_matter(pairs: list[Pair], seed: int) -> None:
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    one, other = prepare(pairs, seed), prepare(shuffled, seed)
    assert (one.train, one.dev, one.rows.stats) == (other.train, other.dev, other.rows.stats)


@given(some_pairs, seeds)
def test_every_pair_is_on_one_side_or_accounted_for_and_no_sentence1_leaks(pairs: list[Pair], seed: int) -> None:
    rows = prepare(pairs, seed)
    stats = rows.rows.stats
    sides = Counter((pair.sentence1, pair.sentence2) for pair in [*rows.train, *rows.dev])
    assert all(sides[pair.sentence1, pair.sentence2] <= 1 for pair in pairs)
    assert stats.train - stats.random + stats.held_out + stats.left_out == len(pairs)
    assert (stats.train, stats.dev) == (len(rows.train), len(rows.dev))
    held_out = {pair.sentence1 for pair in rows.dev}
    assert not held_out & {text for pair in rows.train for text in (pair.sentence1, pair.sentence2)}


@given(some_pairs, seeds)
def test_random_pairs_say_nothing_false_and_leak_nothing(pairs: list[Pair], seed: int) -> None:
    rows = prepare(pairs, seed)
    made = added(rows, pairs)
    firsts = {pair.sentence1 for pair in rows.train}
    seconds = {pair.sentence2 for pair in rows.train}
    assert all(pair.score == 0 and pair.sentence1 != pair.sentence2 for pair in made)
    assert all(pair.sentence1 in firsts and pair.sentence2 in seconds for pair in made)
    assert all(count <= 2 for count in Counter(pair.sentence1 for pair in made).values())
    assert len({(pair.sentence1, pair.sentence2) for pair in made}) == len(made)


@given(some_pairs, seeds)
def test_training_labels_are_smoothed_and_dev_labels_are_not(pairs: list[Pair], seed: int) -> None:
    rows = prepare(pairs, seed)
    scores = {(pair.sentence1, pair.sentence2): pair.score for pair in pairs}
    for pair in rows.train:
        if (pair.sentence1, pair.sentence2) in scores:
            assert pair.score == pytest.approx(0.8 * scores[pair.sentence1, pair.sentence2] + 0.1)
    assert all(pair.score == scores[pair.sentence1, pair.sentence2] for pair in rows.dev)


@given(some_pairs, some_pairs, seeds)
def test_a_sentence_stays_on_its_side_as_the_data_grow(pairs: list[Pair], more: list[Pair], seed: int) -> None:
    grown = list({pair.content_hash: pair for pair in [*more, *pairs]}.values())
    dev = {pair.sentence1 for pair in prepare(grown, seed).dev}
    assert dev <= {pair.sentence1 for pair in grown if in_dev(pair.sentence1, seed)}


def test_two_random_pairs_for_each_sentence1_and_a_tenth_of_the_sentences_in_dev() -> None:
    pairs = make_pairs(3000)
    rows = prepare(pairs, seed=1)
    groups = {pair.sentence1 for pair in pairs}
    dev = {pair.sentence1 for pair in rows.dev}
    assert rows.dev_problem is None
    assert 0.07 < len(dev) / len(groups) < 0.13
    assert Counter(pair.sentence1 for pair in added(rows, pairs)) == Counter(dict.fromkeys(groups - dev, 2))


def test_another_seed_gives_another_split() -> None:
    pairs = make_pairs(300)
    assert prepare(pairs, 1).dev != prepare(pairs, 2).dev


def test_no_dev_side_is_said_and_training_goes_on() -> None:
    pairs = [pair for pair in make_pairs(30) if not in_dev(pair.sentence1, 1)]
    rows = prepare(pairs, 1)
    assert rows.dev_problem == "no pair fell on the dev side; more different sentence1 are needed"
    assert len(rows.train) >= len(pairs)


def test_a_dev_side_of_one_score_is_said() -> None:
    pairs = [pair.model_copy(update={"score": 1.0}) for pair in make_pairs(300)]
    rows = prepare(pairs, 1)
    assert rows.dev_problem is not None
    assert "have the score 1; another score is needed" in rows.dev_problem


def test_pairs_that_are_all_on_the_dev_side_are_trained_on_instead() -> None:
    pairs = [pair for pair in make_pairs(300) if in_dev(pair.sentence1, 1)]
    rows = prepare(pairs, 1)
    assert rows.dev == []
    assert {pair.sentence1 for pair in rows.train} == {pair.sentence1 for pair in pairs}


def test_the_dev_side_has_the_dataset_s_own_shares_of_labels() -> None:
    some = make_pairs(6000)
    pairs = [pair for number, pair in enumerate(some) if pair.score != 0.5 or number % 4 == 0]  # few halves
    shares = Counter(pair.score for pair in pairs)
    dev = Counter(pair.score for pair in prepare(pairs, 1).dev)
    for score, count in shares.items():
        assert dev[score] / dev.total() == pytest.approx(count / len(pairs), abs=0.01)


def test_a_rare_label_does_not_shrink_the_dev_side_to_nothing() -> None:
    pairs = make_pairs(3000)
    rare = next(number for number, pair in enumerate(pairs) if in_dev(pair.sentence1, 1))
    pairs[rare] = pairs[rare].model_copy(update={"score": 0.7})
    rows = prepare(pairs, 1).rows
    assert rows.stats.dev >= rows.stats.held_out / 2
    assert rows.stats.dev_labels["0.7"] == 1


def test_no_more_is_measured_than_a_round_has_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "DEV_MOST", most := 300)
    pairs = [Pair(sentence1=f"One {n // 3}.", sentence2=f"Other {n}.", score=n % 3 / 2) for n in range(6_000)]
    stats = prepare(pairs, 1).rows.stats
    assert stats.held_out > most
    assert abs(stats.dev - most) <= 2
    assert set(stats.dev_labels.values()) <= {stats.dev // 3, stats.dev // 3 + 1}


def test_the_paper_s_preset_keeps_two_pairs_for_a_sentence_and_label() -> None:
    pairs = [Pair(sentence1=f"One {n % 40}.", sentence2=f"Other {n}.", score=n % 2) for n in range(400)]
    kept = Counter((pair.sentence1, pair.score) for pair in prepare(pairs, 1, preset="dino").train if pair.score)
    assert set(kept.values()) == {2}
    assert max(Counter((pair.sentence1, pair.score) for pair in prepare(pairs, 1).train if pair.score).values()) > 2


def test_hard_negatives_are_the_lower_labels_of_the_same_sentence() -> None:
    pairs = make_pairs(900)
    scores = {(pair.sentence1, pair.sentence2): pair.score for pair in pairs}
    with tempfile.TemporaryDirectory() as name:
        stats = prepare_rows(stored(pairs), recipe(1, loss="mnrl"), Path(name)).stats
        triplets = read_table(Path(name) / "train.arrow").to_pylist()
    assert stats.train == len(triplets)
    assert all(scores[row["anchor"], row["positive"]] == 1 for row in triplets)
    negatives = [scores.get((row["anchor"], row["negative"])) for row in triplets]
    assert negatives.count(None) == stats.random
    assert set(negatives) - {None} == {0.0, 0.5}
    assert {row["anchor"] for row in triplets} == {
        pair.sentence1 for pair in pairs if pair.score == 1 and not in_dev(pair.sentence1, 1)
    }


def test_a_positive_alone_gets_a_negative_of_another_sentence() -> None:
    pairs = [Pair(sentence1=f"One {n}.", sentence2=f"Other {n}.", score=1) for n in range(200)]
    with tempfile.TemporaryDirectory() as name:
        stats = prepare_rows(stored(pairs), recipe(1, loss="mnrl"), Path(name)).stats
        triplets = read_table(Path(name) / "train.arrow").to_pylist()
    assert stats.random == stats.train == len(triplets) > 150
    assert all(row["negative"] != row["positive"] for row in triplets)


def test_a_warm_start_trains_on_what_is_new_and_on_some_of_the_old() -> None:
    pairs = make_pairs(1200)
    train = prepare(pairs, 1, Replay(last_old=900, share=0.2)).train
    old = {(pair.sentence1, pair.sentence2) for pair in pairs[:900]}
    new = {(pair.sentence1, pair.sentence2) for pair in pairs[900:] if not in_dev(pair.sentence1, 1)}
    found = {(pair.sentence1, pair.sentence2) for pair in train}
    assert new <= found
    assert 0.1 < len(found & old) / len(old) < 0.3
    with pytest.raises(NoNewPairs):
        prepare(pairs, 1, Replay(last_old=1200, share=0.0))
