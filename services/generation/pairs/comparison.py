"""How sentences are compared: by their words, runs of words, scripts, and small changes. Pure, for all languages."""

import difflib
import unicodedata
from collections import Counter
from functools import lru_cache

NEAR, NEAR_LETTERS = 0.9, 2
"""Two normalised sentences count as one if this share of them is the same and at most so many letters are not."""
ARTICLES = frozenset({"a", "an", "the"})
NEGATIONS = frozenset({"not", "no", "never", "none", "nobody", "nothing", "nor", "neither", "without", "cannot", "t"})
"""English; `t` is what is left of "can't"."""
NEGATING_PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "mis")
EAST_ASIAN = frozenset({"CJK", "HIRAGANA", "KATAKANA"})


def normalised(text: str) -> str:
    """Letters, their combining marks and digits only, lower case, single spaces: what two sentences are compared by.

    Invisible formatting characters are left out: words that only they part are one word.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if folded.isascii():
        return " ".join("".join(character if character.isalnum() else " " for character in folded).split())
    return " ".join("".join(map(_kept, folded)).split())


def _kept(character: str) -> str:
    category = unicodedata.category(character)
    return character if category[0] in "LNM" else "" if category == "Cf" else " "


def word_runs(text: str, size: int) -> set[tuple[str, ...]]:
    """All runs of `size` words (n-grams) of a text."""
    words = normalised(text).split()
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def is_near_copy(first: str, second: str) -> bool:
    """Whether two normalised sentences are the same but for articles or a letter or two."""
    if _without_articles(first) == _without_articles(second):
        return True
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    # The share of letters that match must be so high; its two upper bounds are quick to have.
    share = max(NEAR, 1 - NEAR_LETTERS / (len(first) + len(second)))
    return matcher.real_quick_ratio() >= share and matcher.quick_ratio() >= share and matcher.ratio() >= share


def _without_articles(text: str) -> str:
    return " ".join(word for word in text.split() if word not in ARTICLES)


def words_of(text: str) -> frozenset[str]:
    """What two queries are compared by: their words in any order, without articles."""
    return frozenset(normalised(text).split()) - ARTICLES


def changes_meaning(first: str, second: str) -> bool:
    """Whether two normalised sentences that are nearly the same differ in a number or a negation."""
    one, other = Counter(first.split()), Counter(second.split())
    gone, new = one - other, other - one
    if any(character.isnumeric() for word in (gone + new) for character in word):
        return True
    if NEGATIONS & (gone.keys() ^ new.keys()):
        return True
    return any(_negates(word, by) or _negates(by, word) for word in gone for by in new)


def _negates(word: str, by: str) -> bool:
    return any(by == prefix + word for prefix in NEGATING_PREFIXES)


def has_repetition(text: str) -> bool:
    """Whether a word comes four times in a row, or a run of two to eight words three times."""
    words = normalised(text).split()
    for size in range(1, 9):
        wanted = size * (3 if size == 1 else 2)  # so many words in a row equal the one `size` places before
        equal = 0
        for place in range(size, len(words)):
            equal = equal + 1 if words[place] == words[place - size] else 0
            if equal == wanted:
                return True
    return False


def main_script(text: str) -> str | None:
    """The script of most of a text's letters, by Unicode's name of it; None without letters."""
    letters = filter(str.isalpha, unicodedata.normalize("NFKC", text))
    counts = Counter(map(_script, letters))
    return counts.most_common(1)[0][0] if counts else None


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return "CJK" if name in EAST_ASIAN else name
