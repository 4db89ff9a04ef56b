"""The recipe's promises, for any pairs."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.recipe import Rows, in_dev, prepare
from shared.pairs import Pair
from tests.trainer.made_pairs import make_pairs

sentences = st.integers(0, 30).map(lambda number: f"Sentence {number}.")
some_pairs = st.lists(
    st.builds(Pair, sentence1=sentences, sentence2=sentences, score=st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
    max_size=60,
    unique_by=lambda pair: pair.content_hash,
)
seeds = st.integers(0, 1000)


def added(rows: Rows, pairs: list[Pair]) -> list[Pair]:
    """The random pairs among the training rows: those that nobody gave."""
    given_ones = {(pair.sentence1, pair.sentence2) for pair in pairs}
    return [pair for pair in rows.train if (pair.sentence1, pair.sentence2) not in given_ones]


@given(some_pairs, seeds)
def test_the_order_of_the_pairs_does_not_matter(pairs: list[Pair], seed: int) -> None:
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    assert prepare(pairs, seed) == prepare(shuffled, seed)


@given(some_pairs, seeds)
def test_every_pair_is_on_exactly_one_side_and_no_sentence1_on_both(pairs: list[Pair], seed: int) -> None:
    rows = prepare(pairs, seed)
    sides = Counter((pair.sentence1, pair.sentence2) for pair in [*rows.train, *rows.dev])
    assert all(sides[pair.sentence1, pair.sentence2] == 1 for pair in pairs)
    assert not {pair.sentence1 for pair in rows.train} & {pair.sentence1 for pair in rows.dev}


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
    assert rows.dev_fault is None
    assert 0.07 < len(dev) / len(groups) < 0.13
    assert Counter(pair.sentence1 for pair in added(rows, pairs)) == Counter(dict.fromkeys(groups - dev, 2))


def test_another_seed_gives_another_split() -> None:
    pairs = make_pairs(300)
    assert prepare(pairs, 1).dev != prepare(pairs, 2).dev


def test_no_dev_side_is_said_and_training_goes_on() -> None:
    pairs = [pair for pair in make_pairs(30) if not in_dev(pair.sentence1, 1)]
    rows = prepare(pairs, 1)
    assert rows.dev_fault == "no pair fell on the dev side; more different sentence1 are needed"
    assert len(rows.train) >= len(pairs)


def test_a_dev_side_of_one_score_is_said() -> None:
    pairs = [pair.model_copy(update={"score": 1.0}) for pair in make_pairs(300)]
    rows = prepare(pairs, 1)
    assert rows.dev_fault is not None
    assert "have the score 1; another score is needed" in rows.dev_fault


def test_pairs_that_are_all_on_the_dev_side_are_trained_on_instead() -> None:
    pairs = [pair for pair in make_pairs(300) if in_dev(pair.sentence1, 1)]
    rows = prepare(pairs, 1)
    assert rows.dev == []
    assert {pair.sentence1 for pair in rows.train} == {pair.sentence1 for pair in pairs}
