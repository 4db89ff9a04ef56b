"""What is wrong with a written sentence: small pure functions, each named as its rejections are counted."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from services.generation.decoding.base import End
from shared.pairs import check_sentence


@dataclass(frozen=True)
class Draft:
    """A sentence as the engine wrote it, and what it is filtered by."""

    text: str
    end: End = "quote"
    sentence1: str = ""
    """Empty while sentence 1 itself is written."""
    exemplars: frozenset[str] = frozenset()
    """The prompt's exemplar sentences, normalised."""


Filter = Callable[[Draft], bool]
"""True: throw the sentence away."""

WRITTEN = "sentence|question|passage|query|answer"
ECHO = re.compile(r"\b(task|sentence(?: [12])?|question|answer|query|passage|premise|hypothesis)\s*:", re.IGNORECASE)
INSTRUCTION = re.compile(
    r"\bwrite (a|an|one|two|the) (\w+ )?(sentence|question|passage|query|answer)s?\b", re.IGNORECASE
)
REFUSAL = re.compile(
    r"\b(as an ai|language model|i can(no|')t (generate|provide|help|assist|write)|i'?m sorry,? but|i am unable to)\b",
    re.IGNORECASE,
)
NEAR, NEAR_LETTERS = 0.9, 2
"""Two normalised sentences count as one if this share of them is the same and at most so many letters are not."""


def unclosed(draft: Draft) -> bool:
    """The sentence was cut off by the token limit."""
    return draft.end == "length"


def line_break(draft: Draft) -> bool:
    """A line break came before the closing quote."""
    return draft.end == "line_break"


def unreadable(draft: Draft) -> bool:
    """Blank, too long, or with control characters or broken characters: it can't be a sentence of a pair."""
    try:
        check_sentence(draft.text)
    except ValueError:
        return True
    return "\ufffd" in draft.text


def too_short(draft: Draft) -> bool:
    """Fewer than two letters or digits."""
    return sum(character.isalnum() for character in draft.text) < 2


def echo(draft: Draft) -> bool:
    """The teacher repeats the prompt's own words instead of writing."""
    return bool(ECHO.search(draft.text) or INSTRUCTION.search(draft.text))


def refusal(draft: Draft) -> bool:
    """An instruct model talks about itself instead of writing."""
    return bool(REFUSAL.search(draft.text))


def exemplar(draft: Draft) -> bool:
    """A sentence of the prompt's exemplars again."""
    return normalised(draft.text) in draft.exemplars


def identical(draft: Draft) -> bool:
    """Sentence 1 again, to the letter (the original's `remove_identical_pairs`)."""
    return draft.text == draft.sentence1


def copy(draft: Draft) -> bool:
    """Sentence 1 again, but for case, punctuation and white space: no label learns from it."""
    return normalised(draft.sentence1) == normalised(draft.text)


def near_copy(draft: Draft) -> bool:
    """Sentence 1 again, but for articles or a letter or two."""
    first, second = normalised(draft.sentence1), normalised(draft.text)
    if not first:
        return False
    if without_articles(first) == without_articles(second):
        return True
    together = len(first) + len(second)
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    # The share of letters that match must be so high; its two upper bounds are quick to have.
    share = max(NEAR, 1 - NEAR_LETTERS / together)
    return matcher.real_quick_ratio() >= share and matcher.quick_ratio() >= share and matcher.ratio() >= share


ALL: Mapping[str, Filter] = {
    rule.__name__: rule
    for rule in (
        unclosed,
        line_break,
        unreadable,
        too_short,
        echo,
        refusal,
        exemplar,
        identical,
        copy,
        near_copy,
    )
}
"""By name, in the order in which they are asked."""
ALWAYS = ("unclosed", "line_break", "unreadable")
"""What these throw away can't be a sentence of a pair at all."""

OF_A_SENTENCE1 = ("repeat", "label_conflict")
"""Reasons that need the other sentences written for the same sentence 1: the generator looks for them."""


def reject(draft: Draft, names: Iterable[str] = tuple(ALL)) -> str | None:
    """The name of the first filter that throws the sentence away; None if it may stay."""
    enabled = {*names, *ALWAYS}
    return next((name for name, rejects in ALL.items() if name in enabled and rejects(draft)), None)


def normalised(text: str) -> str:
    """Letters and digits only, lower case, single spaces: what two sentences are compared by."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.findall(r"[^\W_]+", folded))


def without_articles(text: str) -> str:
    """A normalised sentence without `a`, `an` and `the`."""
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))
