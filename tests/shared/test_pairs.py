"""The pair's promises: one line of readable text each, a score in 0..1, and a name that ignores order and score."""

import json
import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.pairs import MAX_SENTENCE_CHARS, Pair, PairRecord
from tests.shared.conftest import record

sentences = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=60).filter(
    lambda text: bool(text.strip())
)
scores = st.floats(0, 1)


def fields_of(error: ValidationError) -> list[str]:
    return [str(one["loc"][0]) for one in error.errors()]


@given(sentences, sentences, scores, scores)
def test_the_hash_ignores_order_and_score(one: str, two: str, score: float, other_score: float) -> None:
    pair = Pair(sentence1=one, sentence2=two, score=score)
    assert pair.content_hash == Pair(sentence1=two, sentence2=one, score=other_score).content_hash


@given(sentences, sentences, sentences)
def test_the_hash_tells_different_sentences_apart(one: str, two: str, three: str) -> None:
    first, second = Pair(sentence1=one, sentence2=two, score=1), Pair(sentence1=one, sentence2=three, score=1)
    same = unicodedata.normalize("NFC", two) == unicodedata.normalize("NFC", three)
    assert (first.content_hash == second.content_hash) == same


def test_the_hash_sees_through_unicode_composition() -> None:
    composed = Pair(sentence1="Caf\u00e9", sentence2="a", score=1)
    decomposed = Pair(sentence1="Cafe\u0301", sentence2="a", score=1)
    assert composed.content_hash == decomposed.content_hash


def test_the_hash_does_not_confuse_where_a_sentence_ends() -> None:
    assert Pair(sentence1="a b", sentence2="c", score=1).content_hash != (
        Pair(sentence1="a", sentence2="b c", score=1).content_hash
    )


@given(sentences, sentences, scores)
def test_a_pair_survives_json(one: str, two: str, score: float) -> None:
    pair = Pair(sentence1=one, sentence2=two, score=score)
    made = PairRecord(pair=pair, provenance=record(1).provenance)
    assert PairRecord.model_validate_json(made.model_dump_json()) == made


@given(sentences, st.characters(categories=("Cc", "Cs", "Zl", "Zp")), sentences)
def test_control_characters_and_surrogates_are_refused_by_name(before: str, bad: str, after: str) -> None:
    with pytest.raises(ValidationError, match=f"has U\\+{ord(bad):04X}") as raised:
        Pair(sentence1="fine", sentence2=f"{before}{bad}{after}", score=0)
    assert fields_of(raised.value) == ["sentence2"]


@pytest.mark.parametrize("blank", ["", " ", "\u00a0", "\u2003 "])
def test_blank_sentences_are_refused(blank: str) -> None:
    with pytest.raises(ValidationError, match="must not be blank"):
        Pair(sentence1=blank, sentence2="fine", score=0)


def test_the_longest_sentence_is_accepted_and_a_longer_one_is_not() -> None:
    assert Pair(sentence1="x" * MAX_SENTENCE_CHARS, sentence2="fine", score=0)
    with pytest.raises(ValidationError, match=f"at most {MAX_SENTENCE_CHARS} characters, has {MAX_SENTENCE_CHARS + 1}"):
        Pair(sentence1="x" * (MAX_SENTENCE_CHARS + 1), sentence2="fine", score=0)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, -0.001, 1.001, None, "high", [0.5]])
def test_scores_outside_0_to_1_are_refused(score: object) -> None:
    with pytest.raises(ValidationError) as raised:
        Pair.model_validate({"sentence1": "a", "sentence2": "b", "score": score})
    assert fields_of(raised.value) == ["score"]


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_scores_that_only_json_parsers_know_are_refused(literal: str) -> None:
    with pytest.raises(ValidationError):
        Pair.model_validate_json('{"sentence1": "a", "sentence2": "b", "score": %s}' % literal)  # noqa: UP031


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError) as raised:
        Pair.model_validate({"sentence1": "a", "sentence2": "b", "score": 1, "sentence3": "c"})
    assert fields_of(raised.value) == ["sentence3"]


def test_unknown_provenance_from_a_newer_writer_is_ignored() -> None:
    body = json.loads(record(1).model_dump_json())
    body["provenance"]["trace"] = "00-1"
    assert PairRecord.model_validate(body) == record(1)
