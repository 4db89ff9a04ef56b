"""Near duplicates are found, and others are not taken for one."""

import random

from services.generation.documents.near_duplicates import SeenTexts

LETTERS = random.Random(0)
WORDS = ["".join(LETTERS.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(2000)]


def text(generator: random.Random, words: int) -> list[str]:
    return generator.choices(WORDS, k=words)


def test_a_word_more_or_other_signs_make_a_near_duplicate() -> None:
    generator, found = random.Random(1), 0
    for _ in range(100):
        seen, words = SeenTexts(), text(generator, 150)
        assert not seen.add(" ".join(words))
        assert seen.add(", ".join(words).upper() + "!"), "case and punctuation don't count"
        found += seen.add(" ".join([*words, "more"]))
    assert found >= 95


def test_other_texts_are_none_however_many_there_are() -> None:
    generator, seen = random.Random(2), SeenTexts()
    assert not any(seen.add(" ".join(text(generator, 30))) for _ in range(2000))


def test_half_of_a_text_in_another_is_not_enough() -> None:
    generator, found = random.Random(3), 0
    for _ in range(100):
        seen, shared = SeenTexts(), text(generator, 60)
        seen.add(" ".join(shared + text(generator, 60)))
        found += seen.add(" ".join(shared + text(generator, 60)))
    assert found <= 2


def test_texts_of_few_letters_or_none_can_be_told_apart() -> None:
    seen = SeenTexts()
    assert [seen.add(one) for one in ("a", "b", "a", "", "...", "日本", "日本語", "日本")] == [
        False, False, True, False, True, False, False, True,
    ]  # fmt: skip
