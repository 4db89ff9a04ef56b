"""What is wrong with a written sentence: small pure functions, by the names under which rejections are counted."""

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


def _unreadable(draft: Draft) -> bool:
    try:
        check_sentence(draft.text)
    except ValueError:
        return True
    return "\ufffd" in draft.text


def _near_copy(draft: Draft) -> bool:
    first, second = normalised(draft.sentence1), normalised(draft.text)
    if not first:
        return False
    if _without_articles(first) == _without_articles(second):
        return True
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    # The share of letters that match must be so high; its two upper bounds are quick to have.
    share = max(NEAR, 1 - NEAR_LETTERS / (len(first) + len(second)))
    return matcher.real_quick_ratio() >= share and matcher.quick_ratio() >= share and matcher.ratio() >= share


ALL: Mapping[str, Filter] = {
    # The sentence was cut off by the token limit.
    "unclosed": lambda draft: draft.end == "length",
    # A line break came before the closing quote.
    "line_break": lambda draft: draft.end == "line_break",
    # Blank, too long, or with control characters or broken characters: it can't be a sentence of a pair.
    "unreadable": _unreadable,
    # Fewer than two letters or digits.
    "too_short": lambda draft: sum(character.isalnum() for character in draft.text) < 2,
    # The teacher repeats the prompt's own words instead of writing.
    "echo": lambda draft: bool(ECHO.search(draft.text) or INSTRUCTION.search(draft.text)),
    # An instruct model talks about itself instead of writing.
    "refusal": lambda draft: bool(REFUSAL.search(draft.text)),
    # A sentence of the prompt's exemplars again.
    "exemplar": lambda draft: normalised(draft.text) in draft.exemplars,
    # Sentence 1 again, to the letter (the original's `remove_identical_pairs`).
    "identical": lambda draft: draft.text == draft.sentence1,
    # Sentence 1 again, but for case, punctuation and white space: no label learns from it.
    "copy": lambda draft: normalised(draft.sentence1) == normalised(draft.text),
    # Sentence 1 again, but for articles or a letter or two.
    "near_copy": _near_copy,
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


def _without_articles(text: str) -> str:
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))
