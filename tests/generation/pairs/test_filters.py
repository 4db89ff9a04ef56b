"""The filters, each by its name, and the original's post-processing: tables and hand-computed cases."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.decoding.base import End
from services.generation.pairs.dino_postprocess import dino_dataset, smooth
from services.generation.pairs.filters import ALL, Draft, normalised, reject

LONG = "The committee has postponed its decision about the new school building in the north of the town"


@pytest.mark.parametrize(
    ("sentence1", "sentence2", "reason"),
    [
        ("A cat sleeps.", "Somewhere an animal is asleep.", None),
        ("A cat sleeps.", "a  CAT sleeps", "copy"),
        ("A cat sleeps.", "A cat sleeps.", "identical"),
        ("A cat sleeps.", "The cat sleeps.", "near_copy"),
        ("A cat sleeps.", "A cat sleep.", "near_copy"),
        ("A cat sleeps.", "A dog sleeps.", None),
        (f"{LONG}.", f"{LONG}s!", "near_copy"),
        (f"{LONG}.", f"{LONG} again!", None),
        (LONG.replace("has", "has not"), LONG, None),
        ("A woman sings.", "The man sings.", None),
        ("A cat sleeps.", "", "unreadable"),
        ("A cat sleeps.", "   ", "unreadable"),
        ("A cat sleeps.", "one\x85two", "unreadable"),
        ("A cat sleeps.", "broken \ufffd character", "unreadable"),
        ("A cat sleeps.", "x" * 3000, "unreadable"),
        ("A cat sleeps.", "?!.", "too_short"),
        ("A cat sleeps.", "Task: Write two sentences.", "echo"),
        ("A cat sleeps.", "Sentence 2: The cat", "echo"),
        ("A cat sleeps.", "Write one short sentence about cats.", "echo"),
        ("A cat sleeps.", "The task was hard.", None),
        ("A cat sleeps.", "I can't generate that.", "refusal"),
        ("A cat sleeps.", "As an AI language model I have no cat.", "refusal"),
        ("A cat sleeps.", "She can't come tonight.", None),
        ("A cat sleeps.", "A boy gives BREAD to the ducks", "exemplar"),
        ("Straße", "STRASSE!", "copy"),
        ("", "A first sentence.", None),
    ],
)
def test_filters(sentence1: str, sentence2: str, reason: str | None) -> None:
    exemplars = frozenset({normalised("A boy gives bread to the ducks.")})
    assert reject(Draft(sentence2, "quote", sentence1, exemplars)) == reason


@pytest.mark.parametrize(("end", "reason"), [("quote", None), ("length", "unclosed"), ("line_break", "line_break")])
def test_how_it_ended_comes_first(end: End, reason: str | None) -> None:
    assert reject(Draft("Fine words.", end)) == reason
    # What can't be a sentence of a pair never passes, whichever filters are on.
    assert reject(Draft("Fine words.", end), []) == reason
    assert reject(Draft("", "quote"), []) == "unreadable"


def test_only_the_named_filters_are_asked() -> None:
    copied = Draft("a CAT sleeps", "quote", "A cat sleeps.")
    assert reject(copied, ["identical"]) is None
    assert reject(copied, ["copy"]) == "copy"
    assert set(ALL) >= {"unclosed", "echo", "copy", "near_copy", "exemplar", "refusal"}


@given(st.text(), st.text())
def test_filters_never_fail(sentence1: str, text: str) -> None:
    reason = reject(Draft(text, "quote", sentence1))
    assert reason is None or reason in ALL
    if reason is None and sentence1:
        assert normalised(sentence1) != normalised(text)


def pair(sentence1: str, sentence2: str, score: float) -> dict[str, str | float]:
    return {"sentence1": sentence1, "sentence2": sentence2, "score": score}


def test_the_originals_post_processing() -> None:
    raw = [
        *(pair(f"First {n}.", f"Same {n} {k}.", 1.0) for n in range(4) for k in range(3)),
        *(pair(f"First {n}.", f"Near {n}.", 0.5) for n in range(4)),
        *(pair(f"First {n}.", f"Far {n}.", 0.0) for n in range(4)),
        pair("First 0.", "Near 0.", 0.5),
        pair("First 1.", "First 1.", 1.0),
    ]
    rows = dino_dataset(raw, seed=7)
    assert dino_dataset(raw[::-1], seed=7) == rows
    assert dino_dataset(raw, seed=8) != rows
    # Of three pairs of label 1 two stay; one of 0.5 and 0 each; and two random ones: for each of the four sentences.
    assert Counter(row["score"] for row in rows) == {0.9: 8, 0.5: 4, 0.1: 4, 0.0: 8}
    kept = {row["sentence2"] for row in rows if row["score"] > 0}
    assert all(row["sentence2"] in kept for row in rows)
    assert Counter(row["sentence1"] for row in rows if row["score"] == 0.0) == {f"First {n}.": 2 for n in range(4)}
    assert [smooth(score) for score in (1.0, 0.5, 0.0)] == [0.9, 0.5, 0.1]
