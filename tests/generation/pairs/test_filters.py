"""The filters, each by its name, and the original's post-processing: tables and hand-computed cases."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.decoding.base import End
from services.generation.pairs.comparison import has_repetition, main_script, normalised
from services.generation.pairs.dino_postprocess import dino_dataset, smooth
from services.generation.pairs.filters import ALL, Draft, reject
from services.generation.pairs.plan import FILTERS
from services.generation.pairs.prompts import Exchange, Prompt, lanes_for, topical_prompt
from services.generation.pairs.tasks import TaskSpec, load_all_tasks

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
    exemplar = Exchange("Sentence 2:", "A boy gives bread to the ducks.", "The boy is feeding ducks at the pond.")
    assert reject(Draft(sentence2, "quote", sentence1, prompt=Prompt((exemplar, Exchange(""))))) == reason


@pytest.mark.parametrize(
    ("sentence1", "sentence2", "reason"),
    [
        # A sentence that was cut at an inner quotation mark, as only its text shows it.
        ("What do you want?", "What do you mean by", "fragment"),
        ("A woman sings.", "A woman says,", "fragment"),
        ("Its name is hard.", "It is called", "fragment"),
        ("A lion sleeps.", "The animal named 'The Lion", "fragment"),
        ("A lion sleeps.", "The animal (a lion", "fragment"),
        ("A lion sleeps.", "There's nothing to wait for.", None),
        ("A lion sleeps.", "The 'lion' is asleep", None),
        ("A lion sleeps.", "Back in the '90s lions slept", None),
        ("how long to wait for", "what is it called", None),
        # What sentence 1 has itself is no evidence.
        ("A language model predicts the next word.", "The next word comes from a language model.", None),
        ("An AI wrote it: as an AI language model I can't.", "As an AI language model I refused.", None),
        ("The query: SELECT name FROM people.", "This is an SQL query: it selects names.", None),
        ("I'm sorry, but there is a delay.", "I'm sorry, but your train is late.", None),
        ("A ship sails.", "I'm sorry, but there is a delay.", None),
        ("A ship sails.", "I am unable to attend the meeting.", None),
        ("A ship sails.", "A language model is a statistical model of text.", None),
        ("A ship sails.", "As an AI language model, I have no ship.", "refusal"),
        ("A ship sails.", "I’m unable to provide that.", "refusal"),
        ("A ship sails.", "SELECT * FROM ships is a query: it lists ships.", "echo"),
        # Text about the task, special tokens, the same again and again.
        ("A ship sails.", "Sure, here is a sentence about ships.", "meta_text"),
        ("A ship sails.", "Here are two similar sentences.", "meta_text"),
        ("A ship sails.", "Hier ist ein ähnlicher Satz.", "meta_text"),
        ("A ship sails.", "Voici une phrase semblable.", "meta_text"),
        ("A ship sails.", "Sure, I can rephrase that sentence.", "meta_text"),
        ("A ship sails.", "Sure, the ship sails on.", None),
        ("A ship sails.", "I will write a letter to the captain.", None),
        ("A ship sails.", "Of course I will come to the harbour.", None),
        ("A ship sails.", "Let me know if you need a ship.", None),
        ("A ship sails.", "Here are some examples of fast ships.", None),
        ("A ship sails.", "Here is the ship.", None),
        ("A ship sails.", "<|im_start|>assistant", "special_token"),
        ("The token is <|im_start|>.", "A turn begins with <|im_start|>.", None),
        ("A ship sails.", "the the the the", "repetition"),
        ("A ship sails.", "It sails and sails and sails and sails.", "repetition"),
        ("A ship sails.", "It was a very, very, very long way.", None),
        # Another script.
        ("A ship sails.", "Корабль плывёт.", "script"),
        ("Корабль плывёт.", "A boat is on the water.", "script"),
        ("Корабль плывёт.", "Лодка на воде.", None),
        ("船は海を行く。", "フネがウミをいく。", None),
        ("1 + 1 = 2", "Корабль плывёт.", None),
        # Combining marks make words.
        ("पानी बहुत ठंडा है।", "पानी बहुत ठंडी है।", "near_copy"),
        ("किताब मेज पर है।", "कतब मज पर ह।", None),
    ],
)
def test_filters_by_fault(sentence1: str, sentence2: str, reason: str | None) -> None:
    assert reject(Draft(sentence2, "quote", sentence1)) == reason


@pytest.mark.parametrize(
    ("sentence1", "sentence2"),
    [
        ("Heat it to 40 degrees.", "Heat it to 90 degrees."),
        ("She is able to walk.", "She is unable to walk."),
        ("He can swim in the sea.", "He can't swim in the sea."),
        ("They do it now.", "They do it not now."),
    ],
)
def test_a_changed_number_or_negation_stays_where_the_label_is_low(sentence1: str, sentence2: str) -> None:
    assert reject(Draft(sentence2, "quote", sentence1, score=1.0), ["near_copy"]) in ("near_copy", None)
    assert reject(Draft(sentence2, "quote", sentence1, score=0.0)) is None
    typing_error = sentence1.replace(".", "e.")
    assert reject(Draft(typing_error, "quote", sentence1, score=0.0)) == "near_copy"


GERMAN = TaskSpec.model_validate(
    {
        "task_name": "german",
        "labels": {
            "1": {
                "instruction": 'Aufgabe: Schreibe zwei Sätze, die dasselbe bedeuten.\nSatz 1: "<X1>"\nSatz 2: "',
                "exemplars": [["Der Junge füttert die Enten.", "Ein Junge gibt den Enten am Teich Brot."]],
            }
        },
    }
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Schreibe zwei Sätze über Katzen.", "echo"),
        ("Satz 2: Die Katze schläft.", "echo"),
        ("Zwei Wörter, die dasselbe bedeuten.", None),
        ("Es sind zwei Sätze, die dasselbe bedeuten.", "echo"),
        ("Ein Junge gibt den Enten am Abend Brot.", "exemplar"),
        ("Die Frau füttert die Enten.", None),
        ("Der Junge füttert die Enten.", "exemplar"),
        ("Das Tier schläft auf dem Sofa.", None),
    ],
)
def test_the_prompt_s_own_lines_do_not_come_back(text: str, reason: str | None) -> None:
    [lane] = lanes_for(GERMAN, "1", "Die Katze schläft.", [0])
    assert reject(Draft(text, "quote", "Die Katze schläft.", prompt=lane)) == reason


def test_words_of_sentence1_are_no_evidence() -> None:
    sentence1 = "Schreibe zwei Sätze: Ein Junge gibt den Enten Brot."
    [lane] = lanes_for(GERMAN, "1", sentence1, [0])
    assert reject(Draft("Schreibe zwei Sätze: Ein Junge gibt den Enten Korn.", "quote", sentence1, prompt=lane)) is None


def test_first_sentences_are_compared_with_their_prompt() -> None:
    prompt = topical_prompt(load_all_tasks(None)["sts"], "gardening", "a diary", [0, 1])
    assert reject(Draft("Write one sentence about the garden.", prompt=prompt)) == "echo"
    assert reject(Draft("It is about gardening, as it could stand in a book.", prompt=prompt)) == "echo"
    assert reject(Draft("I planted three rows of beans after the rain.", prompt=prompt)) == "exemplar"
    assert reject(Draft("The roses need water.", prompt=prompt)) is None


def test_exemplars_that_change_the_script_allow_it() -> None:
    spec = GERMAN.model_dump()
    spec["labels"]["1"]["exemplars"] = [["The cat sleeps.", "Кошка спит."]]
    [lane] = lanes_for(TaskSpec.model_validate(spec), "1", "A ship sails.", [0])
    assert reject(Draft("Корабль плывёт.", "quote", "A ship sails.", prompt=lane)) is None


def test_scripts_and_repetition() -> None:
    assert main_script("123 ?!") is None
    assert main_script("Die Ωmega-Uhr") == "LATIN"
    assert main_script("ＡＢＣ") == "LATIN"
    assert not has_repetition("a b c a b c")
    assert has_repetition("a b c a b c a b c")


def test_normalised_keeps_combining_marks() -> None:
    assert normalised("हिन्दी") == normalised("  हिन्दी। ") == "हिन्दी"
    assert normalised("कि") != normalised("की")
    assert normalised("co\u00adoperate") == "cooperate"
    assert normalised("Cafe\u0301") == "café"
    assert normalised("e\u0301 a_b") == "é a b"


@pytest.mark.parametrize(
    ("end", "reason"),
    [("quote", None), ("length", "unclosed"), ("line_break", "line_break"), ("inner_quote", "inner_quote")],
)
def test_how_it_ended_comes_first(end: End, reason: str | None) -> None:
    assert reject(Draft("Fine words.", end)) == reason
    # What can't be a sentence of a pair never passes, whichever filters are on.
    assert reject(Draft("Fine words.", end), []) == (None if end == "inner_quote" else reason)
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


def test_every_filter_is_documented() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "filters.md").read_text(encoding="utf-8")
    table = text.split("\n\n")[2]
    assert set(FILTERS) <= set(re.findall(r"`(\w+)`", table))
