"""What is wrong with a written sentence: small pure functions, each named as its reason is counted.

A filter takes sentence 1 (empty while sentence 1 itself is written) and the sentence written, and says whether to
reject it.
"""

import re
import unicodedata
from collections.abc import Callable

from shared.pairs import check_sentence

Filter = Callable[[str, str], bool]

ECHO = re.compile(r"\b(task|sentence [12])\s*:", re.IGNORECASE)


def unreadable(_sentence1: str, written: str) -> bool:
    """Blank, too long, or with control characters or broken characters: it can't be a sentence of a pair."""
    try:
        check_sentence(written)
    except ValueError:
        return True
    return "\ufffd" in written


def too_short(_sentence1: str, written: str) -> bool:
    """Fewer than two letters or digits."""
    return sum(character.isalnum() for character in written) < 2


def echo(_sentence1: str, written: str) -> bool:
    """The teacher repeats the prompt's own words instead of writing."""
    return bool(ECHO.search(written))


def copy(sentence1: str, written: str) -> bool:
    """Sentence 1 again, but for case, punctuation and white space: no label learns from it."""
    return normalised(sentence1) == normalised(written)


FILTERS: tuple[Filter, ...] = (unreadable, too_short, echo, copy)


def reject(sentence1: str, written: str) -> str | None:
    """The name of the first filter that rejects the sentence; None if it may stay."""
    return next((rejects.__name__ for rejects in FILTERS if rejects(sentence1, written)), None)


def normalised(text: str) -> str:
    """Letters and digits only, lower case, single spaces: what two sentences are compared by."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.findall(r"[^\W_]+", folded))
