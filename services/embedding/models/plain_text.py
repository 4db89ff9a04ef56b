"""What a tokenizer's rules of normalisation do to plain text: printable ASCII, as most of it is."""

import json
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

Rule = Callable[[str], str]

COMPOSITIONS = {"NFC", "NFD", "NFKC", "NFKD"}
SPACES = re.compile(" {2,}")
CLASS = re.compile(r"\[[^\[\]\\^\-&]*\]")
"""A regular expression that is a class of single characters."""


def plain_rules(tokenizer: Any) -> Rule | None:
    """The same rules for plain text, one after the other; None where there is one that isn't known here."""
    state = json.loads(tokenizer.to_str())
    if state["added_tokens"]:
        return None  # a text is taken apart at them, and the rules see its parts
    own = state["normalizer"] or {"type": "Sequence", "normalizers": []}
    rules = [_rule(one) for one in (own["normalizers"] if own["type"] == "Sequence" else [own])]
    known = [rule for rule in rules if rule is not None]
    if len(known) < len(rules):
        return None
    return lambda text: reduce(lambda changed, rule: rule(changed), known, text)


def _rule(own: dict[str, Any]) -> Rule | None:
    kind = own["type"]
    if kind in COMPOSITIONS:
        return _as_it_is
    if kind == "Lowercase":
        return str.lower
    if kind == "Strip":
        left, right = own["strip_left"], own["strip_right"]
        return str.strip if left and right else str.lstrip if left else str.rstrip if right else _as_it_is
    if kind == "Prepend":
        prefix = own["prepend"]
        return lambda text: prefix + text if text else text
    pattern = own.get("pattern", {}).get("Regex", "") if kind == "Replace" else ""
    if pattern == r"\s+" and own["content"] == " ":
        return lambda text: SPACES.sub(" ", text) if "  " in text else text
    if CLASS.fullmatch(pattern) and not any(character.isascii() for character in pattern[1:-1]):
        return _as_it_is
    return None


def _as_it_is(text: str) -> str:
    return text
